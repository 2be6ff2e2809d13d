import assert from "node:assert/strict";
import test from "node:test";
import { draggedScale, largeWeight, positionOf, ringRadius, scaleOf, weightLook } from "../../eclab/static/scales.js";

test("slider and scale are inverse and clipped to six decades", () => {
  for (const c of [1e-3, 0.02, 1, 12.6, 1000]) assert.ok(Math.abs(scaleOf(positionOf(c)) / c - 1) < 1e-12);
  assert.equal(positionOf(1e9), 3);
  assert.equal(scaleOf(-7), 1e-3);
  assert.equal(positionOf(-1), 0);
  assert.equal(positionOf(Number.NaN), 0);
});

test("rings grow with the scale, everywhere", () => {
  let last = 0;
  for (let decades = -3; decades <= 3; decades += 0.1) {
    const radius = ringRadius(10 ** decades, 11);
    assert.ok(radius > last);
    last = radius;
  }
  assert.ok(ringRadius(1, 11) > 11);
});

test("36 pixels are a decade", () => {
  assert.ok(Math.abs(draggedScale(1, 36) - 10) < 1e-9);
  assert.ok(Math.abs(draggedScale(5, -36) - 0.5) < 1e-9);
});

test("weights look larger when they are, and broken ones do not break the picture", () => {
  assert.ok(weightLook(0.9, 1).width > weightLook(0.1, 1).width);
  assert.equal(weightLook(5, 1).share, 1);
  assert.equal(weightLook(Number.NaN, 1).share, 0);
  assert.equal(weightLook(1, 0).share, 0);
});

test("one outlier does not hide the rest", () => {
  const block = Float32Array.from({ length: 100 }, (_, i) => (i === 0 ? 1e6 : 1));
  assert.equal(largeWeight(block), 1);
  assert.equal(largeWeight(new Float32Array([0, 0, 0, -2])), 2);
  assert.equal(largeWeight(new Float32Array()), 0);
  assert.equal(largeWeight(new Float32Array([Number.NaN])), 0);
});

test("rings of close neighbours hardly cover each other", () => {
  assert.ok(ringRadius(1000, 6, 19) < 19);
  assert.ok(ringRadius(1000, 11, 60) > ringRadius(1000, 11, 30));
});
