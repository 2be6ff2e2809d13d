import assert from "node:assert/strict";
import test from "node:test";
import { bounds, Curves, nearest, smoothed, smoothingFor, thinned } from "../../eclab/static/series.js";

const NAMES = ["lane", "step", "loss", "test_acc"];
const rows = (from, to) => Float64Array.from({ length: (to - from) * 4 }, (_, i) => {
  const step = from + Math.floor(i / 4);
  return [step % 2, step, 1 / (step + 1), step % 10 === 0 ? 0.5 : Number.NaN][i % 4];
});

test("rows arrive in pieces, overlap and grow beyond the first room", () => {
  const curves = new Curves();
  assert.ok(curves.append(NAMES, rows(0, 700), 0));
  assert.ok(curves.append(NAMES, rows(600, 1500), 600));
  assert.equal(curves.count, 1500);
  const { steps, values } = curves.points(0, "loss");
  assert.equal(steps.length, 750);
  assert.deepEqual([...steps.slice(0, 3)], [0, 2, 4]);
  assert.ok(Math.abs(values[1] - 1 / 3) < 1e-12);
});

test("a gap is refused, so that the page asks for the history", () => {
  const curves = new Curves();
  curves.append(NAMES, rows(0, 10), 0);
  assert.equal(curves.append(NAMES, rows(20, 30), 20), false);
  assert.equal(curves.count, 10);
  curves.replace(NAMES, rows(0, 30), 300, 4);
  assert.equal(curves.count, 300);
  assert.equal(curves.run, 4);
  assert.ok(curves.append(NAMES, rows(300, 310), 300));
});

test("missing accuracies and unknown lanes are no points", () => {
  const curves = new Curves();
  curves.append(NAMES, rows(0, 100), 0);
  assert.equal(curves.points(0, "test_acc").values.length, 10);
  assert.equal(curves.points(1, "test_acc").values.length, 0);
  assert.equal(curves.points(5, "loss").values.length, 0);
  assert.equal(curves.points(0, "gauge_drift").values.length, 0);
});

test("smoothing starts without bias and keeps a constant", () => {
  assert.deepEqual([...smoothed([3, 3, 3], 0.9)].map((v) => v.toFixed(9)), ["3.000000000", "3.000000000", "3.000000000"]);
  assert.equal(smoothed([5, 1], 0.6)[0], 5);
  assert.deepEqual([...smoothed([1, 2], 0)], [1, 2]);
});

test("the same slider means the same share of a long and a short run", () => {
  assert.equal(smoothingFor(0, 1000), 0);
  assert.ok(Math.abs(smoothingFor(0.6, 500) - 0.6) < 1e-12);
  assert.ok(smoothingFor(0.6, 5000) > 0.9);
  assert.ok(smoothingFor(0.6, 50) < 0.2);
});

test("thinning keeps ends and peaks", () => {
  const values = Float64Array.from({ length: 10000 }, (_, i) => (i === 4321 ? 9 : i === 777 ? -9 : 0));
  const kept = thinned(values, 500);
  assert.ok(kept.length <= 500);
  for (const index of [0, 777, 4321, 9999]) assert.ok(kept.includes(index));
  assert.deepEqual(thinned([1, 2, 3], 500), [0, 1, 2]);
});

test("nearest", () => {
  assert.equal(nearest([], 3), -1);
  assert.equal(nearest([1, 2, 10], 7), 2);
  assert.equal(nearest([1, 2, 10], 5), 1);
  assert.equal(nearest([1, 2, 10], 99), 2);
});

test("a lane that explodes does not press the others flat", () => {
  const calm = Float64Array.from({ length: 1000 }, () => 0.5);
  const wild = Float64Array.from({ length: 30 }, (_, i) => 10 ** i);
  const [low, high] = bounds([calm, wild]);
  assert.ok(high >= 5 && high <= 500 && low === -high);
  assert.deepEqual(bounds([[1, 2, 3]]), [-Infinity, Infinity]);
  assert.deepEqual(bounds([new Float64Array(50)]), [-Infinity, Infinity]);
});
