// Pieces of the inspector. Each builds its elements once and hands back how to patch them.

import { h, write } from "./dom.js";
import { change, num, times } from "./format.js";
import { Rescaling } from "./rescale.js";
import { DECADES, positionOf, scaleOf } from "./scales.js";

/** @typedef {import("./lab-context.js").Context} Context */
/** @typedef {{text: string, tone?: string, title?: string}} Reading */
/** @typedef {(() => void)[]} Patches */

/** @param {...(Node | null)} children @returns {HTMLElement} */
export function card(...children) {
  return h("div", { class: "ec-card" }, ...children.filter((c) => c !== null));
}

/** @param {string} text @returns {HTMLElement} */
export function sentence(text) {
  return h("p", { class: "ec-sentence", text });
}

/**
 * Rows of a name and a reading that is taken anew at every patch.
 * @param {Patches} patches
 * @param {[string, () => Reading | string, string?][]} rows name, reading, explanation
 * @returns {HTMLElement}
 */
export function readings(patches, rows) {
  const list = h("dl", { class: "ec-readings" });
  for (const [name, read, title] of rows) {
    const value = h("dd");
    list.append(h("dt", { text: name, title }), value);
    patches.push(() => {
      const reading = read();
      const { text, tone = "", title: why = "" } = typeof reading === "string" ? { text: reading } : reading;
      write(value, text);
      value.dataset.tone = tone;
      value.title = why;
    });
  }
  return list;
}

/**
 * The slider of a unit's scale, from 10⁻³ to 10³.
 * @param {Context} ctx @param {Patches} patches @param {number} layer @param {number | null} unit null: the whole layer
 * @returns {HTMLElement}
 */
export function scaleSlider(ctx, patches, layer, unit) {
  /** @type {Rescaling | null} */
  let move = null;
  const now = () => (unit === null ? (move?.now ?? 1) : ctx.scale(layer, unit));
  const value = h("b");
  const slider = h("input", { type: "range", class: "ec-slider", min: -DECADES, max: DECADES, step: 0.01, value: 0,
    "aria-label": unit === null ? "scale of the whole layer" : "scale c of this unit" });
  const show = () => {
    const c = now();
    if (!move) slider.value = String(positionOf(c));
    write(value, times(c));
    slider.setAttribute("aria-valuetext", times(c));
    const at = ((positionOf(c) + DECADES) / (2 * DECADES)) * 100;
    slider.style.setProperty("--ec-from", `${Math.min(50, at)}%`);
    slider.style.setProperty("--ec-to", `${Math.max(50, at)}%`);
  };
  slider.addEventListener("input", () => {
    move ??= new Rescaling(ctx, layer, unit, slider);
    move.to(scaleOf(Number(slider.value)));
    show();
  });
  slider.addEventListener("change", () => {
    move?.commit();
    move = null;
  });
  slider.addEventListener("dblclick", () => {
    const back = new Rescaling(ctx, layer, unit, slider);
    back.to(1);
    back.commit();
  });
  patches.push(show);
  return card(h("div", { class: "ec-cardhead" }, h("span", { text: unit === null ? "scale of every unit" : "scale c" }), value), slider,
    h("div", { class: "ec-ticks", "aria-hidden": "true" }, ...["10⁻³", "10⁻²", "10⁻¹", "1", "10", "10²", "10³"].map((t) => h("span", { text: t }))));
}

const NO_BOUND = "no bound for rounding is known of batch-norm and of what is not homogeneous";

/** Whether two numbers differ visibly. @param {number | null | undefined} a @param {number | null | undefined} b */
function moved(a, b) {
  return typeof a === "number" && typeof b === "number" && Math.abs(a - b) > 0.005 * Math.max(Math.abs(a), Math.abs(b));
}

/**
 * Norms and gradients before → after a rescaling.
 * @param {Context} ctx @param {Patches} patches
 * @returns {HTMLElement}
 */
export function beforeAfter(ctx, patches) {
  const read = (key, alarm) => () => {
    const { before, after, why } = ctx.answer ?? {};
    if (!after) return "…";
    const [a, b] = [before?.[key], after[key]];
    const differs = moved(a, b);
    const none = b === null || b === undefined;
    return { text: differs || (alarm !== undefined && !none) ? change(a, b) : num(b), tone: alarm && differs ? "bad" : "",
      title: none ? (why ?? "") : "" };
  };
  const list = readings(patches, [
    ["‖incoming‖", read("in_norm"), "length of the unit's incoming weights, bias included"],
    ["‖outgoing‖", read("out_norm"), "length of the unit's outgoing weights"],
    ["‖∂L/∂w‖ · SGD", read("grad_w", true), "gradient of the unit's weights, which SGD follows"],
    ["‖∂L/∂v‖ · EC", read("grad_v", false), "gradient in class coordinates, which EC-SGD follows: the same for every member of the class"],
  ]);
  list.append(...readings(patches, [[
    "‖in‖² − ‖out‖²",
    () => {
      const { start = null, now = null } = ctx.answer?.gauge ?? {};
      return moved(start, now) ? change(start, now) : num(now);
    },
    "gauge, from the start of the race to now: plain gradient flow conserves it for every unit, EC flow does not",
  ]]).children);
  const why = h("p", { class: "ec-why" });
  patches.push(() => {
    const { after, why: reason } = ctx.answer ?? {};
    const missing = after && (after.grad_w === null || after.grad_w === undefined);
    write(why, missing ? (reason ?? "no gradient yet: take one training step") : "");
  });
  return card(list, why);
}

/**
 * How far the output moved beside what rounding allows.
 * @param {Context} ctx @param {Patches} patches
 * @returns {HTMLElement}
 */
export function functionChange(ctx, patches) {
  const changed = () => ctx.answer?.change ?? null;
  const list = readings(patches, [
    ["max |Δ output|", () => {
      const c = changed();
      if (!c) return "—";
      return { text: num(c.max_abs, 2), tone: c.same === null ? "" : c.same ? "ok" : "bad" };
    }, "largest change of any output on the probe batch, against the network before the rescaling"],
    ["float bound", () => (changed()?.same === null ? { text: "—", title: NO_BOUND } : num(changed()?.bound, 2)), "what rounding alone may change"],
  ]);
  const verdict = h("p", { class: "ec-verdict" });
  patches.push(() => {
    const c = changed();
    write(verdict, !c ? "not rescaled yet" : c.same === null ? `outputs up to ${num(c.size)} moved by ${num(c.max_abs, 2)}; ${NO_BOUND}`
      : c.same ? "same function, same class ✓" : "the function changed ✗");
    verdict.dataset.tone = !c || c.same === null ? "" : c.same ? "ok" : "bad";
  });
  return card(list, verdict);
}

/**
 * A path as a row of its edges, first to last.
 * @param {Context} ctx @param {any} path
 * @returns {HTMLElement}
 */
export function pathChain(ctx, path) {
  const row = h("div", { class: "ec-chain" });
  path.edges.forEach((edge, k) => {
    if (k === 0) row.append(h("span", { class: "ec-stop", text: edge.tail < 0 ? "bias" : stopName(ctx, edge.from, edge.tail) }));
    row.append(h("span", { class: "ec-hop", "data-sign": edge.value < 0 ? "-" : "+", text: num(edge.value) }),
      h("span", { class: "ec-stop", text: stopName(ctx, edge.to, edge.head) }));
  });
  return row;
}

/** @param {Context} ctx @param {number} layer @param {number} unit */
export function stopName(ctx, layer, unit) {
  const last = ctx.state.layers.length - 1;
  if (layer === 0) return `in ${unit + 1}`;
  return layer === last ? `out ${unit + 1}` : `${layer}.${unit + 1}`;
}
