// Units as circles, channels as tiles, scales as rings.

import { patch, svg, write } from "./dom.js";
import { times } from "./format.js";
import { hatch } from "./geometry.js";
import { ringRadius } from "./scales.js";

/** @typedef {import("./geometry.js").Layout} Layout */
/** @typedef {import("./lab-context.js").Context} Context */
/** @typedef {{group: SVGGElement, ring: SVGElement | null, tag: SVGElement | null, layer: number, unit: number, half: number, spacing: number}} Mark */

const CROWDED = 34; // pixels between units below which scales are written small, beside the ring

export class Units {
  /** @param {Context} ctx @param {SVGElement} group */
  constructor(ctx, group) {
    Object.assign(this, { ctx, group });
    /** @type {Map<string, Mark>} */ this.marks = new Map();
  }

  /** @param {Layout} layout */
  rebuild(layout) {
    this.marks.clear();
    this.group.replaceChildren();
    for (const column of layout.columns) {
      if (column.folded || column.tiles) this.group.append(band(column));
      for (const spot of column.spots) this.#unit(column, spot);
    }
    this.paint();
    this.mark();
  }

  /** @param {import("./geometry.js").Column} column @param {import("./geometry.js").Spot} spot */
  #unit(column, spot) {
    const { layer, half, tiles } = column;
    const { state, reason } = this.ctx.unitState(layer, spot.index);
    const body = tiles
      ? svg("rect", { x: -half, y: -half, width: 2 * half, height: 2 * half, rx: Math.min(4, half / 3), class: "ec-body ec-tile" })
      : svg("circle", { r: half, class: "ec-body" });
    const group = svg("g", { class: "ec-unit", role: "button", tabindex: -1, "data-state": state,
      transform: `translate(${spot.x.toFixed(1)},${spot.y.toFixed(1)})` });
    const free = this.ctx.scalable(layer, spot.index);
    const ring = free ? svg("circle", { r: ringRadius(1, half), class: "ec-ring" }) : null;
    const rest = free ? svg("circle", { r: ringRadius(1, half), class: "ec-ring-rest" }) : null;
    group.append(body);
    const hidden = layer > 0 && layer < this.ctx.state.layers.length - 1;
    if (hidden && state === "pinned") group.append(svg("path", { d: hatch(half), class: "ec-hatch" }));
    if (rest && ring) group.append(rest, ring);
    const tag = free ? svg("text", { x: half + 9, y: -half - 3, class: column.spacing < CROWDED ? "ec-tag ec-tagsmall" : "ec-tag" }) : null;
    if (tag) group.append(tag);
    const why = hidden && state !== "free" && reason ? `, ${state}: ${reason}` : "";
    group.setAttribute("aria-label", this.ctx.unitName(layer, spot.index) + why);
    if (column.spacing >= 16 && isEnd(this.ctx, layer)) group.append(endText(column, spot, layer === 0));
    this.group.append(group);
    this.marks.set(`${layer}:${spot.index}`, { group, ring, tag, layer, unit: spot.index, half, spacing: column.spacing });
  }

  /** New scales. */
  paint() {
    const chosen = this.ctx.selection;
    for (const mark of this.marks.values()) {
      if (!mark.ring || !mark.tag) continue;
      const c = this.ctx.scale(mark.layer, mark.unit);
      const moved = Math.abs(Math.log10(c)) > 0.004;
      const picked = chosen?.kind === "unit" && chosen.layer === mark.layer && chosen.unit === mark.unit;
      const crowded = mark.spacing < CROWDED;
      const radius = ringRadius(c, mark.half, mark.spacing);
      const edge = Math.max(radius, ringRadius(1, mark.half));
      patch(mark.ring, "r", radius.toFixed(1));
      patch(mark.group, "data-moved", moved ? "1" : "0");
      patch(mark.tag, "x", (crowded ? edge + 4 : edge * 0.75 + 6).toFixed(1));
      patch(mark.tag, "y", (crowded ? 4 : -edge * 0.75 - 2).toFixed(1));
      write(mark.tag, (moved && mark.half > 6) || (picked && moved) ? times(c) : "");
    }
  }

  /** Selection and pointer. */
  mark() {
    const { selection, hover } = this.ctx;
    const is = (what, m) => what?.kind === "unit" && what.layer === m.layer && what.unit === m.unit;
    const inLayer = (what, m) => what?.kind === "layer" && what.layer === m.layer;
    let reachable = null;
    for (const m of this.marks.values()) {
      const picked = is(selection, m);
      m.group.classList.toggle("ec-picked", picked || inLayer(selection, m));
      m.group.classList.toggle("ec-hover", is(hover, m));
      m.group.setAttribute("aria-pressed", String(picked));
      m.group.setAttribute("tabindex", picked ? "0" : "-1");
      if (picked) reachable = m;
    }
    // the picture can always be entered with Tab
    if (!reachable) this.marks.values().next().value?.group.setAttribute("tabindex", "0");
  }

  /** @param {number} layer @param {number} unit @returns {boolean} */
  focus(layer, unit) {
    const mark = this.marks.get(`${layer}:${unit}`);
    mark?.group.focus({ preventScroll: true });
    return Boolean(mark);
  }
}

/** @param {Context} ctx @param {number} layer */
function isEnd(ctx, layer) {
  return (layer === 0 || layer === ctx.state.layers.length - 1) && ctx.state.layers[layer].kind !== "conv";
}

/** The number of an input or output beside it. */
function endText(column, spot, left) {
  const x = (left ? -1 : 1) * (column.half + 8);
  return svg("text", { x, y: 4, class: "ec-end", "text-anchor": left ? "end" : "start", text: String(spot.index + 1) });
}

/** The soft band behind a folded layer or a convolution. @param {import("./geometry.js").Column} column */
function band(column) {
  const wide = column.half + 11;
  const [above, below] = [column.before > 0 ? 22 : 10, column.behind > 0 ? 26 : 10];
  const group = svg("g", { class: "ec-band" }, svg("rect", { x: column.x - wide, y: column.top - above, width: 2 * wide,
    height: column.bottom - column.top + above + below, rx: 10 }));
  const more = (y, n) => svg("text", { x: column.x, y, "text-anchor": "middle", text: `+${n}` });
  if (column.before > 0) group.append(more(column.top - 9, column.before));
  if (column.behind > 0) group.append(more(column.bottom + 19, column.behind));
  return group;
}
