// Build: layers, data set, presets.

import { card, readings, sentence } from "./cards.js";
import { button, choice, entry, h, tick } from "./dom.js";
import { count, parseNumber, percent } from "./format.js";

/** @typedef {import("./lab-context.js").Context} Context */

const OWN = "This lab was opened on a model of your own. Its layers are changed in Python; eclab.Lab() without a model lets you build here.";

const KINDS = { conv: "convolution", transposed: "transposed convolution", linear: "fully connected", input: "input", norm: "batch-norm", sum: "sum", op: "operation" };

/** @param {Context} ctx @returns {HTMLElement[]} */
function buildToolbar(ctx) {
  const { state, wire } = ctx;
  const data = choice("data", state.datasets ?? [], state.facts?.data ?? null, (name, control) => wire.send("data", { name }, control));
  const start = choice("start", [{ name: "skeleton", label: "skeleton = 1" }, { name: "model", label: "as initialised" }],
    state.race?.start ?? "skeleton", (value, control) => wire.send("start", { start: value }, control));
  start.title = "skeleton = 1: the start of the paper, given to every lane";
  if (state.own_model) return [start];
  const preset = choice("preset", state.presets ?? [], null, (name, control) => name && wire.send("preset", { name }, control));
  const activation = choice("activation", state.activations ?? [], state.spec?.activation ?? hiddenActivation(state), (value, control) =>
    wire.send("edit", { op: "activation", activation: value, value }, control));
  const bias = tick("bias", hasBias(state), (on, control) => wire.send("edit", { op: "bias", bias: on, value: on }, control));
  return [data, preset, activation, bias, start];
}

/** @param {any} state */
function hiddenActivation(state) {
  return state.layers.slice(1, -1).find((l) => l.activation)?.activation ?? null;
}

/** @param {any} state */
function hasBias(state) {
  return state.layers.slice(1).some((l) => l.bias);
}

/** @param {Context} ctx @returns {HTMLElement} */
function factsCard(ctx) {
  const { facts } = ctx.state;
  const row = (text, title) => () => ({ text, title });
  return card(readings(ctx.patches, [
    ["weights m", row(count(facts.m), "number of weights, biases included")],
    ["free units H", row(count(facts.H), "hidden units whose scale is free")],
    ["class dimension m − H", row(count(facts.class_dim), "coordinates that EC-SGD trains")],
    ["redundant share H/m", row(percent(facts.ratio), "usually far below 1 %; large only for small nets")],
  ]));
}

/** @param {Context} ctx @param {number} index @returns {HTMLElement[]} */
function layerCards(ctx, index) {
  const { state, wire } = ctx;
  const layer = state.layers[index];
  const last = index === state.layers.length - 1;
  const fixed = index === 0 || last;
  const place = { layer: index, name: layer.name, spec_index: layer.spec_index };
  const parts = [];
  const link = state.links.find((l) => l.to === index);
  parts.push(card(readings(ctx.patches, [
    ["kind", () => KINDS[layer.kind] ?? layer.kind],
    [layer.kind === "conv" ? "channels" : "units", () => count(layer.width)],
    ...(layer.kernel ? [["kernel", () => layer.kernel.join(" × ")]] : []),
    ...(layer.shape?.length > 1 ? [["output", () => layer.shape.join(" × ")]] : []),
    ...(link ? [["weights", () => link.shape.join(" × ")]] : []),
    ...(index > 0 ? [["bias", () => (layer.bias ? "yes" : "no")]] : []),
    ...(layer.activation ? [["activation", () => layer.activation]] : []),
    ...(layer.after?.length ? [["then", () => layer.after.join(", ")]] : []),
  ])));
  if (fixed) parts.push(sentence(index === 0 ? "The data set decides how many inputs there are." : "The data set decides how many outputs there are."));
  else if (!state.own_model) {
    const width = entry(layer.kind === "conv" ? "channels" : "units", String(layer.width), (text, control) => {
      const value = parseNumber(text);
      if (!Number.isInteger(value)) return ctx.notes.show("error", `the width is "${text}"; give a whole number of at least 1`, { control });
      return wire.send("edit", { op: "widen", ...place, width: value }, control);
    });
    const remove = button("Remove", () => wire.send("edit", { op: "remove", ...place }, remove), { title: `remove ${layer.label}` });
    parts.push(card(h("div", { class: "ec-actions" }, width, remove)));
  }
  if (layer.window.count < layer.width) parts.push(goTo(ctx, index));
  return parts;
}

/** A way into a folded layer. @param {Context} ctx @param {number} index @returns {HTMLElement} */
export function goTo(ctx, index) {
  const { width, window, name } = ctx.state.layers[index];
  const field = entry("show from unit", String(window.start + 1), (text, control) => {
    const value = parseNumber(text);
    if (!(value >= 1 && value <= width)) return ctx.notes.show("error", `there is no unit "${text}"; give a number from 1 to ${count(width)}`, { control });
    ctx.notes.clear(control);
    const start = Math.min(Math.round(value) - 1, width - window.count);
    return ctx.wire.send("window", { layer: index, name, start, count: window.count }, control);
  });
  return card(field, sentence(`${count(window.count)} of ${count(width)} are drawn; the arrows above the layer turn the page.`));
}

/** @param {Context} ctx @param {(() => void)[]} patches @returns {HTMLElement[]} */
function buildPanel(ctx, patches) {
  ctx.patches = patches;
  const chosen = ctx.selection;
  const parts = [];
  if (chosen?.kind === "layer" || chosen?.kind === "unit") parts.push(...layerCards(ctx, chosen.layer));
  parts.push(factsCard(ctx));
  if (ctx.state.own_model) parts.push(card(sentence(OWN)));
  else if (parts.length === 1) parts.push(sentence("Use − and + below a layer, or + between two layers. Every change can be undone."));
  const hints = (ctx.state.hints ?? []).map((hint) => sentence(hint));
  return [...parts, ...hints];
}

export const buildLens = { name: "build", title: "Build", hint: "add, widen and remove layers in the picture", toolbar: buildToolbar, panel: buildPanel };
