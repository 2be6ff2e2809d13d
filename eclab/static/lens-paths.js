// Paths: skeleton, basis paths, the strongest paths, the exact count.

import { card, pathChain, readings, sentence, stopName } from "./cards.js";
import { button, fill, h, tick, write } from "./dom.js";
import { count, num, percent, shortCount } from "./format.js";

/** @typedef {import("./lab-context.js").Context} Context */

export const SHARE = "how much of the sum of all squared path values runs through it; the same for every member of the class";
const ROLES = {
  tree: "skeleton, tree",
  "skeleton b-edge": "skeleton, b-edge",
  b: "skeleton, b-edge",
  basis: "basis",
};

/** @param {Context} ctx */
export function askPaths(ctx) {
  ctx.pathsStep = ctx.frame?.step;
  ctx.pathsAsked = ctx.wire.send("paths", { k: 12, active: Boolean(ctx.settings.active) });
}

/** @param {Context} ctx @returns {HTMLElement[]} */
function pathsToolbar(ctx) {
  const active = tick("only active on a sample", Boolean(ctx.settings.active), (on) => {
    ctx.remember({ active: on });
    askPaths(ctx);
  });
  return [active, button("Top paths anew", () => askPaths(ctx), { title: "list the strongest paths of the weights as they are now" })];
}

/** @param {Context} ctx @returns {any} the answer about the weight in question */
function weightAnswer(ctx) {
  return (ctx.hover?.kind === "edge" && ctx.lens === "paths" ? ctx.hoverAnswer : null) ?? (ctx.selection?.kind === "edge" ? ctx.answer : null);
}

/**
 * A weight: value, class coordinate, both gradients, its basis path.
 * @param {Context} ctx @param {(() => void)[]} patches
 * @returns {HTMLElement[]}
 */
export function weightCards(ctx, patches) {
  const answer = () => weightAnswer(ctx);
  const show = (key) => () => {
    const a = answer();
    if (!a) return "…";
    return { text: num(a[key]), title: a[key] === null || a[key] === undefined ? (a.why ?? "") : "" };
  };
  const head = h("div", { class: "ec-cardhead" }, h("code"), h("span", { class: "ec-badge" }));
  const why = h("p", { class: "ec-why" });
  const chain = h("div");
  const path = card(h("div", { class: "ec-cardhead" }, h("span", { text: "its basis path" }), h("b")), chain, h("p", { class: "ec-mono" }), h("p", { class: "ec-why" }));
  let drawn = null;
  patches.push(() => {
    const a = answer();
    write(head.children[0], a?.parameter ? `${a.parameter}[${(a.index ?? []).join(", ")}]` : "…");
    write(head.children[1], a ? (ROLES[a.role] ?? a.role ?? "") : "");
    head.children[1].dataset.role = a?.role ?? "";
    write(why, a && (a.dL_dw === null || a.dL_dw === undefined) ? (a.why ?? "no gradient yet: take one training step") : taps(a));
    path.hidden = !a?.path;
    if (!a?.path || a === drawn) return;
    drawn = a;
    fill(chain, pathChain(ctx, a.path));
    write(path.querySelector("b"), `v = ${num(a.path.value)}`);
    write(path.children[2], a.path.monomial ?? "");
    write(path.children[3], a.path.active === true ? "active on this sample" : a.path.active === false ? "not active on this sample: a unit on it is off" : "");
  });
  const numbers = card(head, readings(patches, [
    ["weight w", show("w")], ["class coordinate v", show("v"), "value of the basis path of this weight"],
    ["∂L/∂w", show("dL_dw"), "what SGD follows"], ["∂L/∂v", show("dL_dv"), "what EC-SGD follows"],
    ["share of path value", () => percent(answer()?.share), SHARE]]), why);
  return [numbers, path, sentence("A weight that is not in the tree belongs to one basis path: along the tree to its tail, over the weight, along the b-edges to an output. v is the product of the weights on it.")];
}

/** @param {any} answer */
function taps(answer) {
  return answer?.taps > 1 ? `one of ${count(answer.taps)} parallel weights between these two; the line shows their length` : "";
}

/** @param {Context} ctx @param {(() => void)[]} patches @returns {HTMLElement} */
function pathTable(ctx, patches) {
  const body = h("tbody");
  const exact = h("p", { class: "ec-mono ec-exact" });
  const total = h("b");
  let drawn = null;
  patches.push(() => {
    const { paths } = ctx;
    if (!paths || paths === drawn) {
      for (const row of body.children) row.setAttribute("aria-selected", String(row.edges === ctx.lit));
      return;
    }
    drawn = paths;
    write(total, shortCount(paths.count ?? ""));
    write(exact, String(paths.count ?? "").length > 12 ? `exactly ${count(paths.count)}` : "");
    fill(body, ...(paths.rows ?? []).map((row) => pathRow(ctx, row)));
    if (!paths.rows?.length) fill(body, h("tr", {}, h("td", { colspan: 3, class: "ec-mute", text: "no path is active on this sample" })));
  });
  return card(h("div", { class: "ec-cardhead" }, h("span", { text: "paths" }), total), exact,
    h("table", { class: "ec-table" }, h("thead", {}, h("tr", {}, h("th", { text: "value" }), h("th", { text: "way", title: "units from input to output" }), h("th", { text: "on", title: "active on the sample" }))), body));
}

/** @param {Context} ctx @param {any} row */
function pathRow(ctx, row) {
  const first = row.edges[0];
  const way = [first.tail < 0 ? "bias" : first.tail + 1, ...row.edges.map((e) => e.head + 1)].join("→");
  const spelled = [first.tail < 0 ? "bias" : stopName(ctx, first.from, first.tail), ...row.edges.map((e) => stopName(ctx, e.to, e.head))].join(" → ");
  const light = () => {
    const off = ctx.lit === row.edges;
    [ctx.lit, ctx.litPath] = off ? [null, null] : [row.edges, row];
    ctx.tell("lit");
  };
  const line = h("tr", { tabindex: 0, "aria-selected": String(ctx.lit === row.edges), onclick: light, onkeydown: (e) => {
    if (e.key === "Enter" || e.key === " ") {
      e.preventDefault();
      e.stopPropagation();
      light();
    }
  } }, h("td", { class: "ec-num", "data-sign": row.value < 0 ? "-" : "+", text: num(row.value) }), h("td", { text: way, title: spelled }),
  h("td", { text: row.active === null || row.active === undefined ? "" : row.active ? "●" : "○", title: row.active ? "active" : "not active" }));
  line.edges = row.edges;
  return line;
}

/** @param {Context} ctx @param {(() => void)[]} patches @returns {HTMLElement[]} */
function pathsPanel(ctx, patches) {
  const upper = h("div", { class: "ec-stack" }, ...weightCards(ctx, patches));
  const lead = card(h("p", { class: "ec-lead", text: "Point at a weight: its basis path lights up end to end." }),
    sentence("Gold is the skeleton: a tree edge into every hidden unit (solid) and one b-edge out of it (dashed)."));
  patches.push(() => {
    const shown = Boolean((ctx.hover?.kind === "edge" && ctx.lens === "paths") || ctx.selection?.kind === "edge");
    upper.hidden = !shown;
    lead.hidden = shown;
  });
  return [lead, upper, pathTable(ctx, patches)];
}

export const pathsLens = { name: "paths", title: "Paths", hint: "point at a weight to light its basis path", toolbar: pathsToolbar, panel: pathsPanel };
