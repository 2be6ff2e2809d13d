import assert from "node:assert/strict";
import test from "node:test";
import { brief, change, count, num, parseNumber, percent, product, shortCount, superscript, times, typed } from "../../eclab/static/format.js";

test("numbers have a fixed count of significant digits and true signs", () => {
  assert.equal(num(0.9123), "0.912");
  assert.equal(num(-0.0047), "−0.00470");
  assert.equal(num(12), "12.0");
  assert.equal(num(0), "0");
  assert.equal(num(123456), "1.23×10⁵");
  assert.equal(num(12345), "12,300");
  assert.equal(num(2.4e-7, 2), "2.4×10⁻⁷");
});

test("a missing number is a dash, never NaN", () => {
  for (const nothing of [null, undefined, Number.NaN]) {
    assert.equal(num(nothing), "—");
    assert.equal(times(nothing), "—");
    assert.equal(percent(nothing), "—");
    assert.equal(brief(nothing), "—");
  }
  assert.equal(num(Infinity), "∞");
  assert.equal(num(-Infinity), "−∞");
});

test("scales carry a times sign and no trailing zeros", () => {
  assert.equal(times(1), "× 1");
  assert.equal(times(12.6), "× 12.6");
  assert.equal(times(100), "× 100");
  assert.equal(times(1000), "× 1,000");
  assert.equal(times(0.0631), "× 0.0631");
});

test("percentages", () => {
  assert.equal(percent(0.9722), "97.2 %");
  assert.equal(percent(0.0041), "0.41 %");
  assert.equal(percent(1), "100 %");
  assert.equal(percent(0), "0 %");
});

test("whole numbers, also beyond what a float holds", () => {
  assert.equal(count(4210), "4,210");
  assert.equal(count("16441671680123456789"), "16,441,671,680,123,456,789");
  assert.equal(shortCount("576"), "576");
  assert.equal(shortCount("16441671680123456789"), "1.64×10¹⁹");
  assert.equal(superscript(-12), "⁻¹²");
  assert.equal(brief(1480), "1,480");
  assert.equal(brief(34200), "34.2k");
});

test("before and after, products", () => {
  assert.equal(change(0.91, 11.5), "0.910 → 11.5");
  assert.equal(change(null, 2), "2.00");
  assert.equal(product([0.83, -0.41], -0.3403), "0.830 · −0.410 = −0.340");
  assert.match(product(Array(9).fill(1), 1), /· … ·/);
});

test("typed numbers", () => {
  assert.equal(parseNumber(" 0,1 "), 0.1);
  assert.equal(parseNumber("−2"), -2);
  assert.equal(parseNumber("10^-3"), 1e-3);
  assert.equal(parseNumber("× 5"), 5);
  assert.ok(Number.isNaN(parseNumber("abc")));
  assert.ok(Number.isNaN(parseNumber("")));
});

test("what stands in a field can be typed, and read back", () => {
  assert.deepEqual([0.1, 0.003, 2e-6, 1e9, 0, 0.30000001, 100].map(typed), ["0.1", "0.003", "2e-6", "1e9", "0", "0.3", "100"]);
  assert.equal(typed(null), "");
  for (const x of [1e9, 2.5e-7, 0.05]) assert.equal(parseNumber(typed(x)), x);
});
