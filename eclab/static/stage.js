// The one picture: sheet, pointer, hover card. What is drawn on it lives in edges.js, units.js and overlay.js.

import { fill, h, svg, write } from "./dom.js";
import { Edges, Marks } from "./edges.js";
import { num, percent, product, times } from "./format.js";
import { layoutNetwork, nearestEdge, unitAt } from "./geometry.js";
import { drawOverlay } from "./overlay.js";
import { Rescaling } from "./rescale.js";
import { draggedScale } from "./scales.js";
import { Units } from "./units.js";
import { paced } from "./wire.js";

/** @typedef {import("./lab-context.js").Context} Context */

export class Stage {
  /** @param {Context} ctx */
  constructor(ctx) {
    this.ctx = ctx;
    this.canvas = h("canvas", { class: "ec-canvas", "aria-hidden": "true" });
    this.edgeGroup = svg("g", { class: "ec-edges" });
    this.unitGroup = svg("g", { class: "ec-units" });
    this.edges = new Edges(ctx, this.edgeGroup, this.canvas);
    this.marks = new Marks(ctx, this.edges);
    this.units = new Units(ctx, this.unitGroup);
    this.picture = svg("svg", { class: "ec-picture", role: "group", "aria-label": "network; arrow keys move the selection" },
      this.edgeGroup, this.marks.skeleton, this.marks.near, this.marks.lit, this.unitGroup);
    this.overlay = h("div", { class: "ec-overlay" });
    this.tip = h("div", { class: "ec-tip", "aria-hidden": "true" });
    this.sheet = h("div", { class: "ec-sheet" }, this.canvas, this.picture, this.overlay, this.tip);
    // arrows move the selection, and with it what is seen: the scroller itself needs no stop of its own
    this.frame = h("div", { class: "ec-frame", tabindex: -1 }, this.sheet);
    this.caption = h("div", { class: "ec-caption" });
    this.element = h("div", { class: "ec-drawing" }, this.frame, this.caption);
    this.question = paced(70, () => this.#askHover());
    this.#listen();
  }

  #listen() {
    const { ctx } = this;
    ctx.on(["state", "theme"], () => this.rebuild());
    ctx.on("lens", () => {
      this.element.dataset.lens = ctx.lens;
      if (this.layout) drawOverlay(ctx, this.overlay, this.layout);
      this.mark();
      this.paint();
    });
    ctx.on(["frame", "view"], () => this.paint());
    ctx.on(["selection", "hover", "inspect", "lit"], () => this.mark());
    this.observer = new ResizeObserver(() => this.rebuild());
    this.observer.observe(this.frame);
    this.sheet.addEventListener("pointermove", (e) => this.#move(e));
    this.sheet.addEventListener("pointerdown", (e) => this.#press(e));
    this.sheet.addEventListener("pointerup", (e) => this.#release(e));
    this.sheet.addEventListener("pointercancel", (e) => this.#release(e));
    this.sheet.addEventListener("pointerleave", () => !this.press && this.#hover(null));
    this.unitGroup.addEventListener("focusin", (e) => this.#focused(e));
  }

  close() {
    this.observer.disconnect();
    this.question.cancel();
  }

  /** Colours for the canvas, as the style sheet has them now. */
  #palette() {
    const style = getComputedStyle(this.element);
    return Object.fromEntries(["pos", "neg", "ink"].map((k) => [k, style.getPropertyValue(`--ec-${k}`).trim()]));
  }

  /** Lay the picture out anew: another network, another window or another size. */
  rebuild() {
    const { ctx } = this;
    if (!ctx.state || !this.frame.clientWidth) return;
    const held = this.sheet.contains(this.element.getRootNode().activeElement);
    this.layout = layoutNetwork(ctx.state.layers, this.frame.clientWidth, this.frame.clientHeight);
    const { width, height } = this.layout;
    // where it was, it would make the sheet wider than it is
    this.tip.style.transform = "";
    this.sheet.style.width = `${width}px`;
    this.picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.picture.setAttribute("width", width);
    this.picture.setAttribute("height", height);
    this.element.dataset.lens = ctx.lens;
    this.sheet.toggleAttribute("data-crowded", this.layout.columns.some((c) => c.spacing < 13));
    this.edges.rebuild(this.layout, this.#palette());
    this.units.rebuild(this.layout);
    this.marks.rebuild(this.layout);
    drawOverlay(ctx, this.overlay, this.layout);
    this.mark();
    if (held && ctx.selection?.kind === "unit") this.units.focus(ctx.selection.layer, ctx.selection.unit);
  }

  /** New weights or scales: only attributes change. */
  paint() {
    if (!this.layout) return;
    this.edges.paint();
    this.marks.paint();
    this.units.paint();
    if (this.ctx.hover && !this.press) write(this.tip, this.#tipText(this.ctx.hover));
  }

  mark() {
    if (!this.layout || !this.ctx.state) return;
    if (this.ctx.hoverAnswer && this.ctx.hover && !this.press) write(this.tip, this.#tipText(this.ctx.hover));
    const lit = this.marks.mark() ?? [];
    this.units.mark();
    this.units.paint();
    this.sheet.toggleAttribute("data-lit", lit.length > 0);
    const { selection } = this.ctx;
    this.overlay.querySelectorAll(".ec-layername").forEach((name, index) => {
      name.setAttribute("aria-pressed", String(selection?.kind === "layer" && selection.layer === index));
    });
    this.#caption();
  }

  /** The lit path in numbers, under the picture. */
  #caption() {
    const { ctx } = this;
    const answer = ctx.hover?.kind === "edge" ? ctx.hoverAnswer : ctx.selection?.kind === "edge" ? ctx.answer : null;
    const path = ctx.lit && ctx.hover?.kind !== "edge" ? ctx.litPath : answer?.path;
    if (!path) return write(this.caption, "");
    const active = path.active === null || path.active === undefined ? "" : path.active ? "active on this sample" : "not active on this sample";
    const word = ctx.lit && ctx.hover?.kind !== "edge" ? "path" : "basis path";
    fill(this.caption, h("span", { class: "ec-mute", text: `${word}  v = ` }),
      h("b", { text: product(path.edges.map((e) => e.value), path.value) }), h("span", { class: "ec-mute", text: active }));
    return undefined;
  }

  /** @param {PointerEvent} event @returns {[number, number]} */
  #place(event) {
    const box = this.sheet.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  /** @param {PointerEvent} event */
  #move(event) {
    if (!this.layout) return;
    const [x, y] = this.#place(event);
    if (this.press) return this.#drag(x, y);
    if (event.target.closest?.("button")) return this.#hover(null);
    const unit = unitAt(this.layout, x, y);
    const edge = unit ? null : this.#edgeAt(x, y);
    this.#hover(unit ? { kind: "unit", ...unit } : edge ? { kind: "edge", ...edge } : null, x, y);
    return undefined;
  }

  /** @param {number} x @param {number} y */
  #edgeAt(x, y) {
    return nearestEdge(this.layout, this.ctx.state.links, (...edge) => this.edges.strength(...edge), x, y);
  }

  /** @param {import("./lab-context.js").Selection} what @param {number} [x] @param {number} [y] */
  #hover(what, x = 0, y = 0) {
    this.sheet.style.cursor = what ? "pointer" : "";
    const same = JSON.stringify(what) === JSON.stringify(this.ctx.hover);
    this.#showTip(what, x, y);
    if (same) return;
    this.ctx.hover = what;
    this.ctx.hoverAnswer = null;
    this.ctx.tell("hover");
    if (what?.kind === "edge") this.question();
    else this.question.cancel();
  }

  #askHover() {
    const { ctx } = this;
    if (ctx.hover?.kind === "edge") ctx.hoverAsked = ctx.wire.send("inspect", ctx.describe(ctx.hover));
  }

  /** @param {import("./lab-context.js").Selection} what @param {number} x @param {number} y */
  #showTip(what, x, y) {
    this.tip.toggleAttribute("data-on", Boolean(what));
    if (!what) return;
    write(this.tip, this.#tipText(what));
    const left = Math.min(x + 14, this.layout.width - this.tip.offsetWidth - 6);
    const top = y + 18 + this.tip.offsetHeight > this.layout.height ? y - this.tip.offsetHeight - 8 : y + 16;
    this.tip.style.transform = `translate(${Math.max(4, left)}px,${Math.max(4, top)}px)`;
  }

  /** @param {Exclude<import("./lab-context.js").Selection, null>} what */
  #tipText(what) {
    const { ctx } = this;
    if (what.kind === "unit") {
      const { state, reason } = ctx.unitState(what.layer, what.unit);
      const name = ctx.unitName(what.layer, what.unit);
      if (!ctx.scalable(what.layer, what.unit)) return state === "pinned" && reason ? `${name} · ${reason}` : name;
      return `${name} · scale ${times(ctx.scale(what.layer, what.unit))}`;
    }
    if (what.kind !== "edge") return "";
    const { from, to } = ctx.state.links[what.link];
    const ends = `${ctx.unitWord(from)} ${what.tail + 1} → ${ctx.unitWord(to)} ${what.head + 1}`;
    const known = ctx.hoverAnswer ?? {};
    const more = [known.dL_dw === undefined ? "" : ` · ∂L/∂w = ${num(known.dL_dw)}`, known.share ? ` · ${percent(known.share)} of path value` : ""].join("");
    return `w = ${num(ctx.weight(what.link, what.tail, what.head))} · ${ends}${more}`;
  }

  /** @param {PointerEvent} event */
  #press(event) {
    if (event.button !== 0 || !this.layout || event.target.closest?.("button")) return;
    const [x, y] = this.#place(event);
    const unit = unitAt(this.layout, x, y);
    const edge = unit ? null : this.#edgeAt(x, y);
    if (unit) {
      this.ctx.select({ kind: "unit", ...unit });
      this.units.focus(unit.layer, unit.unit);
      event.preventDefault();
      if (this.ctx.lens !== "classes" || !this.ctx.scalable(unit.layer, unit.unit)) return;
      const spot = this.layout.columns[unit.layer].spots.find((s) => s.index === unit.unit);
      this.press = { unit, spot, far: Math.hypot(x - spot.x, y - spot.y), move: null, x, y };
      this.sheet.setPointerCapture(event.pointerId);
    } else if (edge) this.ctx.select({ kind: "edge", ...edge });
    else this.ctx.select(null);
  }

  /** @param {number} x @param {number} y */
  #drag(x, y) {
    const { press, ctx } = this;
    if (!press.move) {
      if (Math.hypot(x - press.x, y - press.y) < 4) return;
      press.move = new Rescaling(ctx, press.unit.layer, press.unit.unit);
      this.sheet.dataset.dragging = "1";
    }
    // to the right or away from the unit is larger; towards it or to the left is smaller
    const far = Math.hypot(x - press.spot.x, y - press.spot.y);
    const inwards = x < press.spot.x;
    press.move.to(draggedScale(press.move.begin, inwards ? -(far - press.far) : far - press.far));
    this.#showTip({ kind: "unit", ...press.unit }, x, y);
  }

  /** @param {PointerEvent} event */
  #release(event) {
    if (!this.press) return;
    this.press.move?.commit();
    this.press = null;
    delete this.sheet.dataset.dragging;
    if (this.sheet.hasPointerCapture(event.pointerId)) this.sheet.releasePointerCapture(event.pointerId);
  }

  /** Tab into the picture selects what it lands on. @param {FocusEvent} event */
  #focused(event) {
    const mark = [...this.units.marks.values()].find((m) => m.group === event.target);
    const chosen = this.ctx.selection;
    if (!mark || (chosen?.kind === "unit" && chosen.layer === mark.layer && chosen.unit === mark.unit)) return;
    if (event.target.matches(":focus-visible")) this.ctx.select({ kind: "unit", layer: mark.layer, unit: mark.unit });
  }
}
