// Race: the weights move; lanes, speed, decision maps.

import { card, readings, sentence } from "./cards.js";
import { choice, entry, fill, h, tick, write } from "./dom.js";
import { brief, count, num, parseNumber, percent, typed } from "./format.js";
import { colourOf, differencePixels, mapPixels, PlaneMap } from "./maps.js";

/** @typedef {import("./lab-context.js").Context} Context */

const WARM = 30;
const CLASS_VARS = ["--ec-class0", "--ec-class1", "--ec-lane3", "--ec-lane5", "--ec-lane6", "--ec-lane7"];

/** @param {Context} ctx @returns {HTMLElement[]} */
function raceToolbar(ctx) {
  const { state, wire } = ctx;
  const number = (label, cmd, shown, example, title) => {
    const whole = cmd !== "decay";
    const field = entry(label, shown, (text, control) => {
      const value = parseNumber(text);
      if (!Number.isFinite(value) || (whole && !Number.isInteger(value))) {
        return ctx.notes.show("error", `${label} is "${text}"; give a ${whole ? "whole " : ""}number, such as ${example}`, { control });
      }
      ctx.notes.clear(control);
      return wire.send(cmd, { value }, control);
    });
    field.title = title;
    return field;
  };
  const parts = [
    number("batch", "batch", String(state.race?.batch_size ?? ""), "64", "samples a step, the same for every lane"),
    number("epochs", "epochs", String(state.race?.epochs ?? ""), "100", "passes over the data; more of them let a finished race go on"),
    number("decay", "decay", typed(state.race?.weight_decay ?? 0), "0.0001", "weight decay, in each lane's own coordinates"),
  ];
  if (state.is_2d) {
    const on = tick("decision map", Boolean(ctx.mapOn ?? state.map_on), (wanted, control) => {
      ctx.mapOn = wanted;
      ctx.wire.send("map", { on: wanted }, control);
      if (!wanted) ctx.map = null;
      ctx.tell("map");
    });
    parts.push(on);
  }
  return parts;
}

/** Which lane the picture shows. @param {Context} ctx @returns {HTMLElement} */
export function laneChooser(ctx) {
  const lanes = ctx.state.lanes ?? [];
  const entries = lanes.map((l) => ({ name: l.name, label: l.label }));
  return choice("weights of", entries, ctx.state.race?.view_lane ?? lanes[0]?.name ?? "", (lane, control) => ctx.wire.send("view", { lane }, control));
}

/** @param {Context} ctx @param {any} lane of the state @returns {any} the lane in the newest frame */
export function laneNow(ctx, lane) {
  return ctx.frame?.lanes?.find((l) => l.name === lane.name) ?? {};
}

/** @param {Context} ctx @param {(() => void)[]} patches @returns {HTMLElement[]} */
function racePanel(ctx, patches) {
  const chosen = ctx.selection?.kind === "lane" ? ctx.selection.lane : null;
  const lanes = ctx.state.lanes.filter((l) => !chosen || l.name === chosen);
  const cards = lanes.map((lane) => laneCard(ctx, patches, lane));
  return [...mapCards(ctx, patches), ...cards, speedCard(ctx, patches), ...advice(ctx, patches)];
}

/** @param {Context} ctx @param {(() => void)[]} patches @param {any} lane */
function laneCard(ctx, patches, lane) {
  const now = () => laneNow(ctx, lane);
  const guarded = () => {
    const g = now().guarded;
    return Array.isArray(g) ? `${count(g[0])} of ${brief(g[1])}` : count(g ?? 0);
  };
  const verdict = h("p", { class: "ec-why ec-trouble" });
  patches.push(() => write(verdict, now().verdict ?? ""));
  const head = h("div", { class: "ec-cardhead" }, h("span", { class: "ec-lanename" }, h("i", { class: "ec-swatch", style: `background:var(--ec-lane${lane.colour % 8})` }), lane.label));
  return card(head, readings(patches, [
    ["loss", () => num(now().loss)],
    ["train accuracy", () => percent(now().train_acc)],
    ["test accuracy", () => percent(now().test_acc)],
    ["learning rate", () => typed(now().lr ?? lane.lr)],
    ["re-based units", () => count(now().rebased ?? 0), "units that got another skeleton edge, since theirs had become weak against its siblings"],
    ["guarded moves", guarded, "moves of skeleton coordinates held back at the edge of the chart"],
  ]), verdict);
}

/** @param {Context} ctx @param {(() => void)[]} patches */
function speedCard(ctx, patches) {
  const rows = ctx.state.lanes.map((lane) => [`${lane.label} steps/s`, () => brief(ctx.frame?.steps_per_second?.[lane.name])]);
  return card(readings(patches, [
    ["device", () => ctx.state.facts?.device ?? "—"],
    ...rows,
    ["EC overhead", () => overheadText(ctx), "time of an EC-SGD iteration beside an SGD iteration, medians of the last 100"],
  ]));
}

/** @param {Context} ctx */
export function overheadText(ctx) {
  const share = ctx.frame?.overhead;
  // the first steps warm up caches and say nothing
  if (share === null || share === undefined || ctx.frame.step < WARM) return "—";
  return `${share >= 0 ? "+" : "−"}${num(Math.abs(share), 2)} %`;
}

/** @param {Context} ctx @param {(() => void)[]} patches */
function advice(ctx, patches) {
  const text = sentence("");
  patches.push(() => {
    const bad = (ctx.frame?.lanes ?? []).find((l) => l.state === "diverged");
    const label = ctx.state.lanes.find((l) => l.name === bad?.name)?.label;
    write(text, bad ? `${label} stopped where its numbers were no longer finite. Rewind, or lower its learning rate and reset.`
      : "All lanes start from the same weights and see the same batches in the same order.");
  });
  return [text];
}

/** @param {Context} ctx @param {(() => void)[]} patches @returns {HTMLElement[]} */
function mapCards(ctx, patches) {
  if (!ctx.state.is_2d) return [];
  const grid = h("div", { class: "ec-maps" });
  const box = card(grid);
  /** @type {PlaneMap[]} */
  let maps = [];
  let titles = "";
  let drawn = null;
  patches.push(() => {
    const { map } = ctx;
    box.hidden = !map;
    if (!map || map === drawn) return;
    drawn = map;
    const names = map.lanes.map((n) => ctx.state.lanes.find((l) => l.name === n)?.label ?? n);
    if (map.difference) names.push("difference");
    if (names.join() !== titles) {
      titles = names.join();
      maps = names.map((n) => new PlaneMap(n));
      fill(grid, ...maps.map((m) => m.element));
    }
    paintMaps(box, map, maps);
  });
  return [box];
}

/** @param {HTMLElement} box @param {any} map @param {PlaneMap[]} maps */
function paintMaps(box, map, maps) {
  const style = getComputedStyle(box);
  const read = (name) => style.getPropertyValue(name).trim();
  const hues = CLASS_VARS.map((name) => colourOf(read(name)));
  const [ground, ink] = [read("--ec-plain"), read("--ec-trouble")];
  const data = { points: map.points, extent: map.extent, hues, ground };
  map.images.forEach((bytes, k) => maps[k]?.paint(mapPixels(bytes, map.classes, hues, colourOf(ground)), map.size, data));
  const rest = { ...data, points: new Float32Array() };
  if (map.difference) maps.at(-1)?.paint(differencePixels(map.difference, colourOf(ink), colourOf(ground)), map.size, rest);
}

export const raceLens = { name: "race", title: "Race", hint: "the weights move while the lanes train", toolbar: raceToolbar, panel: racePanel };
