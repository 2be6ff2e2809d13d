// Classes: move along the class by rescaling units; the function stays.

import { beforeAfter, card, functionChange, readings, scaleSlider, sentence } from "./cards.js";
import { button, choice, entry, h, tick, write } from "./dom.js";
import { num, parseNumber } from "./format.js";
import { Rescaling } from "./rescale.js";

/** @typedef {import("./lab-context.js").Context} Context */

const WHY_SAME = "Scaling a unit's incoming weights by c and its outgoing weights by 1/c changes no output. " +
  "SGD's gradient changes all the same; the gradient in class coordinates does not.";

/** @param {Context} ctx @returns {HTMLElement[]} */
function classesToolbar(ctx) {
  const sigma = entry("σ", ctx.sigma ?? "1", (value) => {
    ctx.sigma = value;
  }, { size: 4, title: "each unit gets its own scale c = exp(σ · normal)" });
  const unbalance = button("Unbalance", () => {
    const value = parseNumber(sigma.control.value);
    if (!Number.isFinite(value)) return ctx.notes.show("error", `σ is "${sigma.control.value}"; give a number above 0, such as 1`, { control: sigma.control });
    ctx.notes.clear(sigma.control);
    return ctx.wire.send("unbalance", { sigma: value }, unbalance);
  }, { title: "rescale every unit at random, the same way in all lanes" });
  const hundred = button("× 100", () => hundredfold(ctx, hundred), { title: "scale the selected unit or layer by 100 (nothing selected: the first hidden layer)" });
  const reset = button("Reset", () => ctx.wire.send("unscale", {}, reset), { title: "undo all rescalings since the last training step" });
  const same = button("Same class?", () => ctx.wire.send("same", pair(ctx), same), { title: "whether rescaling alone leads from one lane's network to the other's" });
  const every = tick("in all lanes", ctx.everyLane, (on) => {
    ctx.everyLane = on;
  });
  every.title = "off: only the lane that is shown";
  return [h("span", { class: "ec-group" }, sigma, unbalance), hundred, reset, h("span", { class: "ec-group" }, same, rival(ctx)), every];
}

/** The lanes to compare: with more than two, the one shown and the one chosen. @param {Context} ctx */
function pair(ctx) {
  const names = ctx.state.lanes.map((l) => l.name);
  if (names.length < 3) return {};
  const shown = ctx.state.race?.view_lane ?? names[0];
  const other = names.includes(ctx.rival) && ctx.rival !== shown ? ctx.rival : names.find((n) => n !== shown);
  return { a: shown, b: other };
}

/** @param {Context} ctx @returns {HTMLElement | null} */
function rival(ctx) {
  const { a, b } = pair(ctx);
  if (!b) return null;
  const others = ctx.state.lanes.filter((l) => l.name !== a).map((l) => ({ name: l.name, label: l.label }));
  return choice("as", others, b, (name) => {
    ctx.rival = name;
  });
}

/** @param {Context} ctx @param {Element} control */
function hundredfold(ctx, control) {
  const chosen = ctx.selection;
  const unit = chosen?.kind === "unit" && ctx.scalable(chosen.layer, chosen.unit) ? chosen.unit : null;
  const wanted = chosen?.kind === "unit" || chosen?.kind === "layer" ? chosen.layer : 1;
  const layer = wanted > 0 && wanted < ctx.state.layers.length - 1 ? wanted : 1;
  if (ctx.state.layers.length < 3) {
    ctx.notes.show("warning", "there is no hidden layer to rescale; add one in Build", { control });
    return;
  }
  const move = new Rescaling(ctx, layer, unit, control);
  move.to(move.begin * 100);
  move.commit();
}

/** @param {Context} ctx @param {(() => void)[]} patches @returns {HTMLElement[]} */
function sameCard(ctx, patches) {
  const verdict = h("p", { class: "ec-verdict" });
  const where = h("p", { class: "ec-why" });
  const box = card(h("div", { class: "ec-cardhead" }, h("span", { text: "same class?" })), verdict,
    readings(patches, [["largest deviation", () => num(ctx.same?.max_deviation, 2), "largest relative difference after the best rescaling"]]), where);
  patches.push(() => {
    box.hidden = !ctx.same;
    write(verdict, ctx.same?.same ? "yes: one class ✓" : "no: different classes");
    verdict.dataset.tone = ctx.same?.same ? "ok" : "bad";
    write(where, ctx.same?.text ?? "");
  });
  return [box];
}

/** @param {Context} ctx @param {(() => void)[]} patches @returns {HTMLElement[]} */
function classesPanel(ctx, patches) {
  const chosen = ctx.selection;
  const lower = sameCard(ctx, patches);
  if (chosen?.kind === "unit" && ctx.scalable(chosen.layer, chosen.unit)) {
    const reset = button("Back to × 1", () => {
      const move = new Rescaling(ctx, chosen.layer, chosen.unit, reset);
      move.to(1);
      move.commit();
    });
    return [scaleSlider(ctx, patches, chosen.layer, chosen.unit), beforeAfter(ctx, patches), functionChange(ctx, patches),
      h("div", { class: "ec-actions" }, reset), ...lower, sentence(WHY_SAME)];
  }
  if (chosen?.kind === "layer" && chosen.layer > 0 && chosen.layer < ctx.state.layers.length - 1) {
    return [scaleSlider(ctx, patches, chosen.layer, null), beforeAfter(ctx, patches), functionChange(ctx, patches), ...lower, sentence(WHY_SAME)];
  }
  return [...lower, card(h("p", { class: "ec-lead", text: "Drag a hidden unit, or choose one and move its slider." }),
    sentence("All networks that rescaling can reach form one class. They compute the same function, yet SGD walks a different way from each of them.")),
  sentence("Keys: arrows choose a unit, [ and ] scale it, 0 puts it back.")];
}

export const classesLens = { name: "classes", title: "Classes", hint: "drag a unit to rescale it", toolbar: classesToolbar, panel: classesPanel };
