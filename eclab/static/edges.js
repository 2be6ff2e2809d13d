// Weights as lines: SVG for small pictures, one canvas for large ones; kernels as little images on the same canvas.

import { patch, svg } from "./dom.js";
import { edgeCurve, edgeSpan, unitPoint } from "./geometry.js";
import { largeWeight, weightLook } from "./scales.js";

/** @typedef {import("./geometry.js").Layout} Layout */
/** @typedef {import("./lab-context.js").Context} Context */
/** @typedef {{element: SVGElement, link: number, tail: number, head: number}} Line */

// more than this and the lines go to the canvas
export const SVG_EDGES = 500;
const LEVELS = 8;

/** One number for an edge: link below 2¹³, units below 2²⁰. @param {number} link @param {number} tail @param {number} head */
function edgeKey(link, tail, head) {
  return (link * 2 ** 20 + tail) * 2 ** 20 + head;
}

/** Draws all weights of the picture, and redraws them in place when they move. */
export class Edges {
  /** @param {Context} ctx @param {SVGElement} group @param {HTMLCanvasElement} canvas */
  constructor(ctx, group, canvas) {
    Object.assign(this, { ctx, group, canvas });
    /** @type {Line[]} */ this.lines = [];
    /** @type {Layout | null} */ this.layout = null;
    /** @type {Record<string, string>} */ this.palette = {};
  }

  /** @param {Layout} layout @param {Record<string, string>} palette */
  rebuild(layout, palette) {
    this.layout = layout;
    this.palette = palette;
    const links = this.ctx.state.links;
    const total = links.reduce(
      (n, l) => n + layout.columns[l.from].spots.length * layout.columns[l.to].spots.length, 0);
    this.onCanvas = total > SVG_EDGES;
    this.lines = [];
    this.group.replaceChildren();
    const { tree = [], b = [] } = this.ctx.state.skeleton ?? {};
    this.covered = new Set([...tree, ...b].map((e) => edgeKey(...e)));
    for (const join of this.ctx.state.joins ?? []) this.#join(join);
    if (!this.onCanvas) links.forEach((_, index) => this.#lines(index));
    const ratio = globalThis.devicePixelRatio || 1;
    this.canvas.width = Math.round(layout.width * ratio);
    this.canvas.height = Math.round(layout.height * ratio);
    this.canvas.style.width = `${layout.width}px`;
    this.canvas.style.height = `${layout.height}px`;
    this.paint();
  }

  /** What leads on unchanged (an addition, a batch-norm): one grey line a unit. */
  #join({ from, to, pairs }) {
    const past = to - from > 1;
    const path = (tail, head) => (past ? arcPath(this.layout, from, to, tail, head) : edgePath(this.layout, from, to, tail, head));
    for (const [tail, head] of pairs) this.group.append(svg("path", { d: path(tail, head), class: "ec-join" }));
  }

  /** @param {number} link */
  #lines(link) {
    const { from, to } = this.ctx.state.links[link];
    for (const head of this.layout.columns[to].spots) {
      for (const tail of this.layout.columns[from].spots) {
        const element = svg("path", { d: edgePath(this.layout, from, to, tail.index, head.index), class: "ec-edge" });
        element.classList.toggle("ec-covered", this.covered.has(edgeKey(link, tail.index, head.index)));
        this.lines.push({ element, link, tail: tail.index, head: head.index });
        this.group.append(element);
      }
    }
  }

  /** Take the newest weights. */
  paint() {
    if (!this.layout || !this.ctx.state) return;
    this.large = this.ctx.state.links.map((_, link) => {
      const block = this.ctx.blocks.get(link);
      return block ? largeWeight(this.ctx.weights.subarray(block.offset, block.offset + block.rows * block.cols)) : 0;
    });
    for (const line of this.lines) this.paintLine(line);
    this.#paintCanvas();
  }

  /** Relative strength of a weight, 0 … 1. @param {number} link @param {number} tail @param {number} head */
  strength(link, tail, head) {
    return weightLook(this.ctx.weight(link, tail, head), this.large?.[link] ?? 0).share;
  }

  /** @param {Line} line @param {number} [boost] added to the opacity */
  paintLine(line, boost = 0) {
    const weight = this.ctx.weight(line.link, line.tail, line.head);
    const look = weightLook(weight, this.large[line.link]);
    patch(line.element, "data-sign", weight < 0 ? "-" : "+");
    patch(line.element, "stroke-width", look.width.toFixed(1));
    patch(line.element, "stroke-opacity", Math.min(1, look.opacity + boost).toFixed(2));
  }

  #paintCanvas() {
    const pen = this.canvas.getContext("2d");
    if (!pen) return;
    const ratio = globalThis.devicePixelRatio || 1;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, this.layout.width, this.layout.height);
    if (this.onCanvas) this.ctx.state.links.forEach((_, index) => this.#paintLink(pen, index));
    pen.globalAlpha = 1;
    for (const block of this.ctx.frame?.kernels ?? []) this.#paintKernels(pen, block);
  }

  /** @param {CanvasRenderingContext2D} pen @param {number} index */
  #paintLink(pen, index) {
    const { from, to } = this.ctx.state.links[index];
    const [start, end] = [this.layout.columns[from], this.layout.columns[to]];
    const [x0, x1] = edgeSpan(start, end);
    const bend = (x1 - x0) * 0.42;
    const under = this.ctx.lens !== "race" && this.group.closest("[data-skeleton]") !== null;
    const paths = Array.from({ length: 2 * LEVELS }, () => /** @type {Path2D | null} */ (null));
    for (const head of end.spots) {
      for (const tail of start.spots) {
        if (under && this.covered.has(edgeKey(index, tail.index, head.index))) continue;
        const weight = this.ctx.weight(index, tail.index, head.index);
        const { share } = weightLook(weight, this.large[index]);
        const slot = Math.min(LEVELS - 1, Math.floor(share * LEVELS)) + (weight < 0 ? LEVELS : 0);
        const path = (paths[slot] ??= new Path2D());
        path.moveTo(x0, tail.y);
        path.bezierCurveTo(x0 + bend, tail.y, x1 - bend, head.y, x1, head.y);
      }
    }
    // a dense link is drawn fainter, so that the strong weights stand out
    const crowd = Math.min(1, 14 / Math.sqrt(start.spots.length * end.spots.length));
    paths.forEach((path, slot) => {
      if (!path) return;
      const share = ((slot % LEVELS) + 0.5) / LEVELS;
      pen.strokeStyle = slot < LEVELS ? this.palette.pos : this.palette.neg;
      pen.lineWidth = 0.4 + 1.9 * share;
      pen.globalAlpha = (0.05 + 0.65 * share * share) * (0.35 + 0.65 * crowd);
      pen.stroke(path);
    });
  }

  /** @param {CanvasRenderingContext2D} pen @param {{layer: number, rows: number, kh: number, kw: number, offset: number}} block */
  #paintKernels(pen, block) {
    const column = this.layout.columns[block.layer];
    const size = block.kh * block.kw;
    if (!column || column.half < 5) return;
    const values = this.ctx.weights.subarray(block.offset, block.offset + block.rows * size);
    const inner = 2 * column.half - 4;
    const cell = inner / Math.max(block.kh, block.kw);
    const [padX, padY] = [(inner - cell * block.kw) / 2, (inner - cell * block.kh) / 2];
    column.spots.slice(0, block.rows).forEach((spot, row) => {
      const [x, y] = [spot.x - column.half + 2 + padX, spot.y - column.half + 2 + padY];
      // each against its own largest weight: a kernel is its pattern, the ring its scale
      const own = values.subarray(row * size, (row + 1) * size);
      const large = own.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
      for (let k = 0; k < size; k += 1) {
        const value = own[k];
        pen.fillStyle = value < 0 ? this.palette.neg : this.palette.pos;
        pen.globalAlpha = 0.05 + 0.85 * Math.min(1, Math.abs(value) / large);
        pen.fillRect(x + (k % block.kw) * cell, y + Math.floor(k / block.kw) * cell, Math.max(cell - 0.5, 0.5), Math.max(cell - 0.5, 0.5));
      }
    });
    pen.globalAlpha = 1;
  }
}

/** A way past the layers in between, below their units. @returns {string} */
function arcPath(layout, from, to, tail, head) {
  const [start, end] = [layout.columns[from], layout.columns[to]];
  const [x0, x1] = edgeSpan(start, end);
  const [y0, y1] = [unitPoint(start, tail).y, unitPoint(end, head).y];
  const sag = Math.min(start.spacing, end.spacing) * 0.5;
  const bend = Math.min(layout.gap * 0.6, (x1 - x0) / 3);
  return `M${x0},${y0}C${x0 + bend / 2},${y0} ${x0 + bend / 2},${y0 + sag} ${x0 + bend},${y0 + sag}L${x1 - bend},${y1 + sag}C${x1 - bend / 2},${y1 + sag} ${x1 - bend / 2},${y1} ${x1},${y1}`;
}

/**
 * Path data of an edge between two layers; units outside the windows count at the fold.
 * @param {Layout} layout @param {number} from @param {number} to @param {number} tail @param {number} head
 * @returns {string}
 */
export function edgePath(layout, from, to, tail, head) {
  const [start, end] = [layout.columns[from], layout.columns[to]];
  const [x0, x1] = edgeSpan(start, end);
  if (tail < 0) {
    // a bias comes from the constant source, drawn as a stub from above
    const point = unitPoint(end, head);
    const reach = Math.max(end.half, 8);
    return `M${point.x - reach - 18},${point.y - reach - 14}Q${point.x - reach},${point.y - reach - 8} ` +
      `${point.x - end.half * 0.75},${point.y - end.half * 0.8}`;
  }
  return edgeCurve(x0, unitPoint(start, tail).y, x1, unitPoint(end, head).y);
}

/**
 * The marks above the weights: skeleton, the selected unit's own edges, the lit path.
 */
export class Marks {
  /** @param {Context} ctx @param {Edges} edges */
  constructor(ctx, edges) {
    Object.assign(this, { ctx, edges });
    this.skeleton = svg("g", { class: "ec-skeleton" });
    this.near = svg("g", { class: "ec-near" });
    this.lit = svg("g", { class: "ec-lit" });
    /** @type {Line[]} */ this.nearLines = [];
  }

  /** Everything that depends on the layout. @param {Layout} layout */
  rebuild(layout) {
    this.layout = layout;
    const { tree = [], b = [] } = this.ctx.state.skeleton ?? {};
    const line = (kind) => ([link, tail, head]) => {
      const { from, to } = this.ctx.state.links[link];
      return svg("path", { d: edgePath(layout, from, to, tail, head), class: `ec-skel ec-skel-${kind}` });
    };
    // an edge may be both: into its head as tree, out of its tail as b
    const solid = new Set(tree.map((e) => e.join()));
    this.skeleton.replaceChildren(...b.filter((e) => !solid.has(e.join())).map(line("b")), ...tree.map(line("tree")));
    this.mark();
  }

  /** Everything that depends on selection and pointer. */
  mark() {
    if (!this.layout) return;
    this.#markNear();
    const shown = litPath(this.ctx);
    const column = (layer) => layer >= 0 && layer < this.layout.columns.length;
    this.lit.replaceChildren(...shown.filter((e) => column(e.from) && column(e.to)).map((e) => svg("path", {
      d: edgePath(this.layout, e.from, e.to, e.tail, e.head), class: e.main ? "ec-lit-main" : "ec-lit-edge" })));
    return shown;
  }

  #markNear() {
    const chosen = this.ctx.selection;
    this.nearLines = [];
    if (chosen?.kind === "unit") {
      this.ctx.state.links.forEach(({ from, to }, link) => {
        const spots = (layer) => this.layout.columns[layer].spots.map((s) => s.index);
        if (to === chosen.layer) for (const tail of spots(from)) this.#near(link, from, to, tail, chosen.unit);
        if (from === chosen.layer) for (const head of spots(to)) this.#near(link, from, to, chosen.unit, head);
      });
    }
    this.near.replaceChildren(...this.nearLines.map((l) => l.element));
    this.paint();
  }

  #near(link, from, to, tail, head) {
    const element = svg("path", { d: edgePath(this.layout, from, to, tail, head), class: "ec-edge" });
    this.nearLines.push({ element, link, tail, head });
  }

  paint() {
    if (this.edges.large) for (const line of this.nearLines) this.edges.paintLine(line, 0.3);
  }
}

/**
 * The edges to light: a path from the table, else that of the weight under the pointer, else that of the selected one.
 * @param {Context} ctx
 * @returns {{from: number, to: number, tail: number, head: number, main?: boolean}[]}
 */
export function litPath(ctx) {
  const edge = ctx.hover?.kind === "edge" ? ctx.hover : ctx.selection?.kind === "edge" ? ctx.selection : null;
  if (ctx.lit && ctx.hover?.kind !== "edge") return ctx.lit;
  if (!edge) return [];
  const { from, to } = ctx.state.links[edge.link] ?? {};
  if (from === undefined) return [];
  const answer = edge === ctx.hover ? ctx.hoverAnswer : ctx.answer;
  const rest = (answer?.path?.edges ?? []).filter((e) => !(e.link === edge.link && e.tail === edge.tail && e.head === edge.head));
  return [...rest, { from, to, tail: edge.tail, head: edge.head, main: true }];
}
