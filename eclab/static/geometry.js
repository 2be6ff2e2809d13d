// Where everything in the picture is. Plain numbers in, plain numbers out: no DOM.

/**
 * @typedef {{index: number, x: number, y: number}} Spot
 * @typedef {{layer: number, x: number, half: number, spacing: number, tiles: boolean, spots: Spot[], top: number,
 *   bottom: number, before: number, behind: number, folded: boolean}} Column
 * @typedef {{width: number, height: number, gap: number, columns: Column[]}} Layout
 * @typedef {{x: number, y: number, hidden: boolean}} Point
 */

export const HEAD = 57; // room for the layers' names
export const FOOT = 56; // room for the Build handles
const SIDE = 62;
const MIN_GAP = 66;

/**
 * Columns of units for a picture of the given size. The picture grows wider than asked when layers would touch.
 * @param {{width: number, kind: string, window: {start: number, count: number}}[]} layers
 * @param {number} width
 * @param {number} height
 * @returns {Layout}
 */
export function layoutNetwork(layers, width, height) {
  const steps = Math.max(layers.length - 1, 1);
  const full = Math.max(width, 2 * SIDE + steps * MIN_GAP);
  const gap = (full - 2 * SIDE) / steps;
  const columns = layers.map((layer, i) => layoutColumn(layer, i, SIDE + i * gap, height, gap));
  return { width: full, height, gap, columns };
}

/**
 * @param {{width: number, kind: string, window: {start: number, count: number}, shape?: number[] | null}} layer
 * @param {number} index
 * @param {number} x
 * @param {number} height
 * @param {number} gap
 * @returns {Column}
 */
function layoutColumn(layer, index, x, height, gap) {
  const { start, count } = layer.window;
  const folded = count < layer.width;
  const tiles = layer.kind === "conv" || (layer.kind === "input" && (layer.shape?.length ?? 0) === 3);
  const room = height - HEAD - FOOT - (folded ? 36 : 0);
  const spacing = Math.min(tiles ? 60 : 62, room / Math.max(count, 1));
  const half = tiles
    ? Math.min(Math.max(spacing * 0.41, 3.5), 19, gap * 0.24)
    : Math.min(Math.max(spacing * 0.34, 2.5), 11);
  const middle = HEAD + (height - HEAD - FOOT) / 2;
  const spots = Array.from({ length: count }, (_, k) => ({
    index: start + k, x, y: middle + (k - (count - 1) / 2) * spacing,
  }));
  const reach = ((count - 1) / 2) * spacing + half;
  return {
    layer: index, x, half, spacing, tiles, spots, folded,
    top: middle - reach, bottom: middle + reach, before: start, behind: layer.width - start - count,
  };
}

/**
 * The place of a unit; a unit outside the window sits, hidden, just above or below it.
 * @param {Column} column
 * @param {number} unit
 * @returns {Point}
 */
export function unitPoint(column, unit) {
  const first = column.spots[0]?.index ?? 0;
  const spot = column.spots[unit - first];
  if (spot) return { x: spot.x, y: spot.y, hidden: false };
  return { x: column.x, y: unit < first ? column.top - 12 : column.bottom + 12, hidden: true };
}

/**
 * The two ends of the edges between two columns.
 * @param {Column} from
 * @param {Column} to
 * @returns {[number, number]}
 */
export function edgeSpan(from, to) {
  return [from.x + from.half + 4, to.x - to.half - 4];
}

/**
 * An edge as an SVG path.
 * @param {number} x0 @param {number} y0 @param {number} x1 @param {number} y1
 * @returns {string}
 */
export function edgeCurve(x0, y0, x1, y1) {
  const bend = (x1 - x0) * 0.42;
  return `M${x0.toFixed(1)},${y0.toFixed(1)}C${(x0 + bend).toFixed(1)},${y0.toFixed(1)} ` +
    `${(x1 - bend).toFixed(1)},${y1.toFixed(1)} ${x1.toFixed(1)},${y1.toFixed(1)}`;
}

/**
 * How far an edge has risen (0 … 1) at x: all edges between two columns share this number.
 * @param {number} x0 @param {number} x1 @param {number} x
 * @returns {number}
 */
export function riseAt(x0, x1, x) {
  const bend = (x1 - x0) * 0.42;
  let [low, high] = [0, 1];
  for (let k = 0; k < 24; k += 1) {
    const t = (low + high) / 2;
    const s = 1 - t;
    const at = s * s * s * x0 + 3 * s * s * t * (x0 + bend) + 3 * s * t * t * (x1 - bend) + t * t * t * x1;
    if (at < x) low = t;
    else high = t;
  }
  const t = (low + high) / 2;
  return t * t * (3 - 2 * t);
}

/**
 * The edge nearest to a point, or null when none is within reach. Strong weights win a near tie.
 * @param {Layout} layout
 * @param {{from: number, to: number}[]} links
 * @param {(link: number, tail: number, head: number) => number} strength 0 … 1
 * @param {number} px @param {number} py @param {number} [reach]
 * @returns {{link: number, tail: number, head: number} | null}
 */
export function nearestEdge(layout, links, strength, px, py, reach = 7) {
  let [best, cost] = [null, reach];
  links.forEach((link, index) => {
    const [from, to] = [layout.columns[link.from], layout.columns[link.to]];
    const [x0, x1] = edgeSpan(from, to);
    if (px < x0 || px > x1) return;
    const rise = riseAt(x0, x1, px);
    const slope = (riseAt(x0, x1, Math.min(px + 1, x1)) - riseAt(x0, x1, Math.max(px - 1, x0))) / 2;
    for (const head of to.spots) {
      for (const tail of from.spots) {
        const dy = head.y - tail.y;
        const distance = Math.abs(tail.y + dy * rise - py) / Math.hypot(1, dy * slope);
        if (distance - 2 > cost) continue;
        const bid = distance - 2 * strength(index, tail.index, head.index);
        if (distance <= reach && bid < cost) [best, cost] = [{ link: index, tail: tail.index, head: head.index }, bid];
      }
    }
  });
  return best;
}

/**
 * The unit under a point, with a little slack for small circles.
 * @param {Layout} layout
 * @param {number} px @param {number} py
 * @returns {{layer: number, unit: number} | null}
 */
export function unitAt(layout, px, py) {
  for (const column of layout.columns) {
    const slack = Math.max(column.half + 3, 7);
    if (Math.abs(px - column.x) > slack) continue;
    const tall = Math.min(slack, Math.max(column.spacing / 2, column.half));
    const spot = column.spots.find((s) => Math.abs(s.y - py) <= tall);
    if (spot) return { layer: column.layer, unit: spot.index };
  }
  return null;
}

/**
 * Diagonal hatching inside a circle of radius r around the origin, as path data.
 * @param {number} r
 * @returns {string}
 */
export function hatch(r) {
  let path = "";
  for (let offset = -r + 2; offset < r; offset += Math.max(3, r / 3)) {
    const chord = Math.sqrt(Math.max(r * r - offset * offset, 0));
    const [dx, dy] = [chord * Math.SQRT1_2, offset * Math.SQRT1_2];
    path += `M${(-dx + dy).toFixed(1)},${(dx + dy).toFixed(1)}L${(dx + dy).toFixed(1)},${(-dx + dy).toFixed(1)}`;
  }
  return path;
}

/**
 * The window that shows a unit: it moves by whole pages and stays inside the layer.
 * @param {{start: number, count: number}} window
 * @param {number} width
 * @param {number} unit
 * @returns {{start: number, count: number}}
 */
export function windowAround(window, width, unit) {
  const { start, count } = window;
  if (unit >= start && unit < start + count) return window;
  const page = Math.floor(unit / count) * count;
  return { start: Math.max(0, Math.min(page, width - count)), count };
}

/**
 * The selection one step away: up and down in a layer, left and right between layers (to the nearest height).
 * @param {{width: number}[]} layers
 * @param {{layer: number, unit: number}} at
 * @param {"up" | "down" | "left" | "right"} way
 * @returns {{layer: number, unit: number}}
 */
export function stepSelection(layers, at, way) {
  const width = layers[at.layer].width;
  if (way === "up") return { layer: at.layer, unit: Math.max(0, at.unit - 1) };
  if (way === "down") return { layer: at.layer, unit: Math.min(width - 1, at.unit + 1) };
  const next = at.layer + (way === "left" ? -1 : 1);
  if (next < 0 || next >= layers.length) return at;
  const share = (at.unit + 0.5) / width;
  return { layer: next, unit: Math.min(layers[next].width - 1, Math.floor(share * layers[next].width)) };
}
