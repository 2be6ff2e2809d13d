import assert from "node:assert/strict";
import test from "node:test";
import { eventMarks } from "../../eclab/static/charts.js";
import { KEYS, meaning } from "../../eclab/static/keys.js";
import { Context } from "../../eclab/static/lab-context.js";
import { colourOf, differencePixels, mapPixels } from "../../eclab/static/maps.js";
import { dressedSpec } from "../../eclab/static/vega.js";
import { numbers, paced, Wire } from "../../eclab/static/wire.js";

const key = (name, more = {}) => ({ key: name, ctrlKey: false, metaKey: false, altKey: false, shiftKey: false, ...more });
const nowhere = { typing: false, button: false };

function fakeModel() {
  const listeners = new Set();
  let settings = { lens: "paths" };
  return {
    sent: [], listeners, on: (_, f) => listeners.add(f), off: (_, f) => listeners.delete(f),
    send(message) { this.sent.push(message); }, get: () => settings, set: (_, value) => { settings = value; }, save_changes() {},
    receive(content, buffers) { for (const f of listeners) f(content, buffers); },
  };
}

test("keys mean what the help panel says", () => {
  assert.deepEqual(meaning(key(" "), nowhere), { act: "toggle" });
  assert.deepEqual(meaning(key("."), nowhere), { act: "step" });
  assert.deepEqual(meaning(key("3"), nowhere), { act: "lens", value: "paths" });
  assert.deepEqual(meaning(key("]"), nowhere), { act: "scale", value: 0.1 });
  assert.deepEqual(meaning(key("ArrowUp"), nowhere), { act: "move", value: "up" });
  assert.deepEqual(meaning(key("z", { ctrlKey: true }), nowhere), { act: "undo" });
  assert.deepEqual(meaning(key("Z", { metaKey: true, shiftKey: true }), nowhere), { act: "redo" });
  assert.equal(meaning(key("x"), nowhere), null);
  assert.ok(KEYS.length > 8);
});

test("fields and buttons keep their own keys", () => {
  assert.equal(meaning(key("1"), { typing: true, button: false }), null);
  assert.equal(meaning(key(" "), { typing: false, button: true }), null);
  assert.equal(meaning(key("c", { ctrlKey: true }), nowhere), null);
});

test("buffers that start at an odd byte become numbers", () => {
  const bytes = new Uint8Array(17);
  new Float64Array(bytes.buffer.slice(0, 16)).forEach(() => {});
  new DataView(bytes.buffer).setFloat64(1, 2.5, true);
  new DataView(bytes.buffer).setFloat64(9, -1, true);
  assert.deepEqual([...numbers(new DataView(bytes.buffer, 1, 16), Float64Array)], [2.5, -1]);
  assert.equal(numbers(undefined, Float32Array).length, 0);
});

test("a command carries its id; answers to other views are not ours; closing removes the listener", () => {
  const model = fakeModel();
  const [one, two] = [new Wire(model), new Wire(model)];
  const id = one.send("play", { lane: "sgd" });
  assert.deepEqual(model.sent, [{ cmd: "play", id, lane: "sgd" }]);
  assert.ok(one.mine(id) && !two.mine(id) && two.mine(undefined));
  const seen = [];
  one.on("frame", (content, buffers) => seen.push([content.n, buffers.length]));
  model.receive({ type: "frame", n: 1 });
  model.receive({ type: "unknown" });
  assert.deepEqual(seen, [[1, 0]]);
  one.close();
  two.close();
  assert.equal(model.listeners.size, 0);
});

test("calls are paced, the last one is never lost", (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const seen = [];
  const call = paced(15, (x) => seen.push(x));
  for (let i = 0; i < 5; i += 1) call(i);
  assert.deepEqual(seen, [0]);
  context.mock.timers.tick(14);
  assert.deepEqual(seen, [0]);
  context.mock.timers.tick(1);
  context.mock.timers.tick(20);
  assert.deepEqual(seen, [0, 4]);
  call(9);
  call(10);
  call.cancel();
  context.mock.timers.tick(20);
  assert.deepEqual(seen, [0, 4, 9]);
});

test("the context finds weights by absolute unit numbers, and scales while they are dragged", () => {
  const ctx = new Context(new Wire(fakeModel()), fakeModel());
  ctx.state = { layers: [{ window: { start: 4, count: 2 } }, { window: { start: 8, count: 1 } }, { window: { start: 0, count: 1 } }],
    links: [{ from: 0, to: 1 }] };
  ctx.weights = new Float32Array([9, 0.5, -0.5]);
  ctx.blocks = new Map([[0, { rows: 1, cols: 2, offset: 1 }]]);
  assert.equal(ctx.weight(0, 5, 8), -0.5);
  assert.ok(Number.isNaN(ctx.weight(0, 3, 8)));
  ctx.frame = { scales: { 1: [2] } };
  assert.equal(ctx.scale(1, 8), 2);
  ctx.dragged.set("1:8", 7);
  assert.equal(ctx.scale(1, 8), 7);
  assert.equal(ctx.lens, "paths");
});

test("decision maps: sure is strong, unsure is the ground", () => {
  const [a, b, ground] = [[200, 0, 0], [0, 0, 200], [255, 255, 255]];
  const pixels = mapPixels(new Uint8Array([0, 128, 255]), 2, [a, b], ground);
  assert.ok(pixels[0] > pixels[2]);
  assert.ok(pixels[10] > pixels[8]);
  assert.ok(pixels[4] > 230);
  const many = mapPixels(new Uint8Array([84, 169]), 3, [a, b, [0, 200, 0]], ground);
  assert.ok(many[0] > many[1] && many[6] > many[4]);
  assert.deepEqual([...differencePixels(new Uint8Array([0, 255]), [1, 2, 3], ground)], [255, 255, 255, 255, 1, 2, 3, 255]);
  assert.deepEqual(colourOf("#fff"), [255, 255, 255]);
  assert.deepEqual(colourOf("rgb(1, 2, 3)"), [1, 2, 3]);
  assert.deepEqual(colourOf("nonsense"), [128, 128, 128]);
});

test("of events that stand close together the gravest is named", () => {
  const marks = eventMarks([{ step: 100, text: "lr 0.1", kind: "lr" }, { step: 110, text: "diverged", kind: "diverged" }, { step: 900, text: "lr 0.2", kind: "lr" }], [0, 1000], 300);
  assert.deepEqual(marks.map((m) => m.text), ["", "diverged", "lr 0.2"]);
  assert.deepEqual(marks.map((m) => m.x), [100, 110, 900]);
  assert.deepEqual(marks.map((m) => m.late), [false, false, true]);
});

test("a specification gets the page's colours and axis, and stays itself", () => {
  const spec = { scales: [{ name: "y", type: "log" }, { name: "color", domain: ["0", "1"], range: ["#000000", "#111111"] }, { name: "strokeDash", domain: ["0", "1"], range: [[1, 0], [6, 2]] }], axes: [{ scale: "y", gridColor: "#eceff2", grid: true }, { scale: "x" }] };
  const kept = structuredClone(spec);
  const dressed = dressedSpec(spec, { lanes: [{ label: "Adam", place: 1, colour: "#cf7a1f" }], log: false, read: () => "#262c33" });
  assert.deepEqual(spec, kept);
  assert.equal(dressed.scales[0].type, "linear");
  assert.deepEqual([dressed.scales[1].domain, dressed.scales[1].range], [["Adam"], ["#cf7a1f"]]);
  assert.deepEqual([dressed.scales[2].domain, dressed.scales[2].range], [["Adam"], [[6, 2]]]);
  assert.equal(dressed.axes[0].gridColor, "#262c33");
  assert.equal(dressedSpec(spec, { lanes: [], log: null, read: () => "#262c33" }).scales[0].type, "log");
});
