// Keys of the lab, and the panel that lists them.

import { h } from "./dom.js";
import { LENSES } from "./lab-context.js";
import { stepSelection, windowAround } from "./geometry.js";
import { nudgeScale } from "./rescale.js";
import { times } from "./format.js";

/** @typedef {import("./lab-context.js").Context} Context */

/** Every key and what it does, in the order of the help panel. */
export const KEYS = [
  ["Space", "play or pause"],
  [".", "one training step"],
  ["1 2 3 4", "Build, Classes, Paths, Race"],
  ["← → ↑ ↓", "choose a unit; with a weight chosen: the weights into its unit"],
  ["Enter", "from a unit to its strongest weight"],
  ["[ ]", "scale the unit by a tenth of a decade"],
  ["{ }", "scale the unit by a decade"],
  ["0", "scale back to × 1"],
  ["Esc", "choose nothing"],
  ["Ctrl+Z  Ctrl+Y", "undo, redo: building, lanes, rates, scales, training, reset"],
  ["?", "this list"],
];

const ARROWS = { ArrowUp: "up", ArrowDown: "down", ArrowLeft: "left", ArrowRight: "right" };

/**
 * What a key press means; null when it is none of ours. Fields keep their own keys.
 * @param {{key: string, ctrlKey: boolean, metaKey: boolean, altKey: boolean, shiftKey: boolean}} event
 * @param {{typing: boolean, button: boolean}} at whether the focus is in a field, or on a button
 * @returns {{act: string, value?: any} | null}
 */
export function meaning(event, at) {
  if (at.typing || event.altKey) return null;
  const { key } = event;
  if (event.ctrlKey || event.metaKey) {
    if (key.toLowerCase() === "z") return { act: event.shiftKey ? "redo" : "undo" };
    return key.toLowerCase() === "y" ? { act: "redo" } : null;
  }
  if (key === " ") return at.button ? null : { act: "toggle" };
  if (key === "Enter") return at.button ? null : { act: "enter" };
  if (key === ".") return { act: "step" };
  if (key === "?") return { act: "help" };
  if (key === "Escape") return { act: "clear" };
  if (ARROWS[key]) return { act: "move", value: ARROWS[key] };
  if (/^[1-4]$/.test(key)) return { act: "lens", value: LENSES[Number(key) - 1] };
  const decades = { "[": -0.1, "]": 0.1, "{": -1, "}": 1 }[key];
  if (decades !== undefined) return { act: "scale", value: decades };
  return key === "0" ? { act: "unscale" } : null;
}

/**
 * Listens on the lab's own element, so nothing outlives the view.
 * @param {HTMLElement} root @param {Context} ctx @param {{toggle: () => void, help: () => void, focus: (layer: number, unit: number) => void}} act
 */
export function listenKeys(root, ctx, act) {
  root.setAttribute(QUIET, "true");
  root.addEventListener("keydown", (event) => {
    const target = /** @type {HTMLElement} */ (event.composedPath()[0]);
    const typing = target.matches?.("select, textarea, input") && !target.matches("input[type=checkbox]");
    const wanted = meaning(event, { typing, button: Boolean(target.matches?.("button, input, summary")) });
    if (!wanted || !ctx.state) return passOn(root, event, typing);
    event.preventDefault();
    event.stopPropagation();
    return perform(ctx, act, wanted);
  });
}

// JupyterLab runs its shortcuts before the lab sees a key, unless an element around it carries this
const QUIET = "data-lm-suppress-shortcuts";

/**
 * JupyterLab's own Ctrl keys, such as Ctrl+S, work inside the lab too: what the lab has no use for is sent on.
 * @param {HTMLElement} root @param {KeyboardEvent} event @param {boolean} typing
 */
function passOn(root, event, typing) {
  const { key, code, keyCode, ctrlKey, metaKey, shiftKey, altKey } = event;
  if (!(ctrlKey || metaKey) || !root.hasAttribute(QUIET) || (typing && key !== "s")) return;
  const copy = new KeyboardEvent("keydown", { key, code, keyCode, ctrlKey, metaKey, shiftKey, altKey, bubbles: true, cancelable: true });
  root.removeAttribute(QUIET);
  event.target?.dispatchEvent(copy);
  root.setAttribute(QUIET, "true");
  if (copy.defaultPrevented) event.preventDefault();
}

/** @param {Context} ctx @param {any} act @param {{act: string, value?: any}} wanted */
function perform(ctx, act, wanted) {
  const simple = {
    toggle: act.toggle, help: act.help, enter: () => enterUnit(ctx), clear: () => ctx.select(null),
    step: () => !ctx.frame?.running && ctx.wire.send("step"), undo: () => ctx.wire.send("undo"), redo: () => ctx.wire.send("redo"),
    lens: () => ctx.look(wanted.value), move: () => move(ctx, wanted.value, act.focus),
    scale: () => sayScale(ctx, nudgeScale(ctx, wanted.value)), unscale: () => unscale(ctx),
  };
  simple[wanted.act]?.();
}

/** @param {Context} ctx @param {number | null} c */
function sayScale(ctx, c) {
  ctx.notes.say(c === null ? "choose a hidden unit whose scale is free" : `scale ${times(c)}`);
}

/** @param {Context} ctx */
function unscale(ctx) {
  const chosen = ctx.selection;
  if (chosen?.kind !== "unit") return;
  sayScale(ctx, nudgeScale(ctx, -Math.log10(ctx.scale(chosen.layer, chosen.unit))));
}

/** @param {Context} ctx @param {"up" | "down" | "left" | "right"} way @param {(layer: number, unit: number) => void} focus */
function move(ctx, way, focus) {
  const chosen = ctx.selection;
  const { layers } = ctx.state;
  if (chosen?.kind === "edge" && (way === "up" || way === "down")) return moveEdge(ctx, chosen, way === "up" ? -1 : 1);
  const at = chosen?.kind === "unit" ? chosen : chosen?.kind === "layer" ? { layer: chosen.layer, unit: layers[chosen.layer].window.start }
    : chosen?.kind === "edge" ? { layer: ctx.state.links[chosen.link][way === "left" ? "from" : "to"], unit: way === "left" ? chosen.tail : chosen.head } : null;
  const first = { layer: Math.min(1, layers.length - 1), unit: layers[Math.min(1, layers.length - 1)].window.start };
  const next = at === null ? first : chosen?.kind === "unit" ? stepSelection(layers, at, way) : at;
  const { window, width, name } = layers[next.layer];
  const seen = windowAround(window, width, next.unit);
  if (seen !== window) ctx.wire.send("window", { layer: next.layer, name, start: seen.start, count: seen.count });
  ctx.select({ kind: "unit", ...next });
  focus(next.layer, next.unit);
  return undefined;
}

/** @param {Context} ctx @param {any} edge @param {number} by */
function moveEdge(ctx, edge, by) {
  const { window } = ctx.state.layers[ctx.state.links[edge.link].from];
  const tail = Math.max(window.start, Math.min(window.start + window.count - 1, edge.tail + by));
  ctx.select({ ...edge, tail });
}

/** @param {Context} ctx */
function enterUnit(ctx) {
  const chosen = ctx.selection;
  if (chosen?.kind !== "unit") return;
  const into = ctx.state.links.findIndex((l) => l.to === chosen.layer);
  const link = into >= 0 ? into : ctx.state.links.findIndex((l) => l.from === chosen.layer);
  if (link < 0) return;
  const { window } = ctx.state.layers[into >= 0 ? ctx.state.links[link].from : ctx.state.links[link].to];
  let best = { kind: "edge", link, tail: chosen.unit, head: chosen.unit };
  let size = -1;
  for (let other = window.start; other < window.start + window.count; other += 1) {
    const [tail, head] = into >= 0 ? [other, chosen.unit] : [chosen.unit, other];
    const weight = Math.abs(ctx.weight(link, tail, head));
    if (weight > size) [best, size] = [{ kind: "edge", link, tail, head }, weight];
  }
  ctx.select(best);
}

/** @param {() => void} close @returns {HTMLElement} */
export function helpPanel(close) {
  const rows = KEYS.map(([key, what]) => [h("dt", {}, ...key.split(" ").filter(Boolean).map((k) => h("kbd", { text: k }))), h("dd", { text: what })]);
  return h("section", { class: "ec-help", "aria-label": "keys" }, h("header", {}, h("b", { text: "Keys" }),
    h("button", { type: "button", class: "ec-link", text: "close", onclick: close })), h("dl", {}, ...rows.flat()),
  h("p", { class: "ec-mute", text: "Keys work while the focus is inside the lab. Colours: orange SGD, blue EC-SGD; green and purple the sign of a weight; gold the skeleton." }));
}
