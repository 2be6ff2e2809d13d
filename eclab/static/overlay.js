// HTML over the picture: the layers' names, the way through folded layers, the Build handles.

import { fill, h, iconButton, refocused } from "./dom.js";
import { count } from "./format.js";
import { HEAD, FOOT } from "./geometry.js";

/** @typedef {import("./geometry.js").Layout} Layout */
/** @typedef {import("./lab-context.js").Context} Context */

/**
 * @param {Context} ctx @param {HTMLElement} host @param {Layout} layout
 */
export function drawOverlay(ctx, host, layout) {
  const parts = layout.columns.map((column) => heading(ctx, column, layout));
  if (ctx.lens === "build") parts.push(...buildHandles(ctx, layout));
  refocused(host, () => fill(host, ...parts));
}

/** @param {Context} ctx @param {import("./geometry.js").Column} column @param {Layout} layout */
function heading(ctx, column, layout) {
  const layer = ctx.state.layers[column.layer];
  const picked = ctx.selection?.kind === "layer" && ctx.selection.layer === column.layer;
  const name = h("button", { type: "button", class: "ec-layername", "aria-label": layer.label, "aria-pressed": String(picked), text: layer.label,
    title: `select ${layer.label}`, onclick: () => ctx.select({ kind: "layer", layer: column.layer }) });
  const below = column.folded ? pager(ctx, column.layer) : h("span", { class: "ec-layersize", text: sizeText(layer) });
  return h("div", { class: "ec-heading", style: `left:${column.x}px;max-width:${Math.max(layout.gap, 70)}px` }, name, below);
}

/** @param {any} layer */
function sizeText(layer) {
  const kernel = layer.kernel ? ` · ${layer.kernel.join("×")}` : "";
  return `${count(layer.width)}${kernel}${{ norm: " · norm", sum: " · sum" }[layer.kind] ?? ""}`;
}

/** @param {Context} ctx @param {number} index */
function pager(ctx, index) {
  const { window, width, label } = ctx.state.layers[index];
  const { start, count: shown } = window;
  const turn = (by, control) => {
    const next = Math.max(0, Math.min(start + by * shown, width - shown));
    ctx.wire.send("window", { layer: index, name: ctx.state.layers[index].name, start: next, count: shown }, control);
  };
  const earlier = iconButton("left", `${label}: earlier units`, () => turn(-1, earlier), "ec-turn");
  const later = iconButton("right", `${label}: later units`, () => turn(1, later), "ec-turn");
  earlier.disabled = start === 0;
  later.disabled = start + shown >= width;
  const text = `${start + 1}–${start + shown}`;
  return h("span", { class: "ec-pager" }, earlier,
    h("span", { text, title: `units ${text} of ${count(width)}` }), later,
    h("span", { class: "ec-pager-of", text: `of ${count(width)}` }));
}

/** @param {Context} ctx @param {Layout} layout @returns {HTMLElement[]} */
function buildHandles(ctx, layout) {
  if (ctx.state.own_model) return [];
  const { layers } = ctx.state;
  const top = layout.height - FOOT + (layout.gap < 126 ? 2 : 8);
  const parts = [];
  // too narrow for both side by side
  const low = layout.gap < 126 ? 25 : 0;
  layout.columns.forEach((column, index) => {
    const layer = layers[index];
    if (index > 0 && index < layers.length - 1) parts.push(widthHandle(ctx, layer, index, column.x, top, low > 0));
    if (index === layers.length - 1) return;
    const middle = (column.x + layout.columns[index + 1].x) / 2;
    parts.push(addHandle(ctx, index, middle, top + low, layout.height));
  });
  return parts;
}

/** @param {Context} ctx @param {any} layer @param {number} index @param {number} x @param {number} top @param {boolean} low */
function widthHandle(ctx, layer, index, x, top, low) {
  const what = layer.kind === "conv" ? "channel" : "unit";
  const place = { layer: index, name: layer.name, spec_index: layer.spec_index };
  const resize = (by) => (event) => {
    const pace = event.shiftKey ? 8 : 1;
    ctx.wire.send("edit", { op: "widen", ...place, width: layer.width + by * pace }, row);
  };
  const less = iconButton("minus", `${layer.label}: one ${what} less (Shift: 8)`, resize(-1), "ec-handle");
  less.disabled = layer.width <= 1;
  const row = h("div", { class: low ? "ec-widths ec-tight" : "ec-widths", style: `left:${x}px;top:${top}px` }, less,
    h("span", { class: "ec-widthnow", text: count(layer.width) }),
    iconButton("plus", `${layer.label}: one ${what} more (Shift: 8)`, resize(1), "ec-handle"),
    iconButton("close", `remove ${layer.label}`, () => ctx.wire.send("edit", { op: "remove", ...place }, row), "ec-handle ec-remove"));
  return row;
}

/** @param {Context} ctx @param {number} index the layer before @param {number} x @param {number} top @param {number} height */
function addHandle(ctx, index, x, top, height) {
  const { layers } = ctx.state;
  const [before, after] = [layers[index], layers[index + 1]];
  // a convolution may follow an image or another convolution; behind the first dense layer only dense layers can stand
  const conv = (before.kind === "conv" || before.shape?.length === 3) && after.kind === "conv";
  const width = index > 0 ? before.width : Math.min(after.width, 16);
  const add = iconButton("plus", `add a ${conv ? "convolution" : "layer"} between ${before.label} and ${after.label}`, () =>
    ctx.wire.send("edit", { op: "add", after: index, spec_after: before.spec_index ?? -1, kind: conv ? "conv2d" : "linear", width }, box),
  "ec-handle ec-add");
  const box = h("div", { class: "ec-adding", style: `left:${x}px;top:${top}px;--ec-reach:${height - HEAD - FOOT}px` }, add);
  return box;
}
