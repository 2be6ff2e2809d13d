import assert from "node:assert/strict";
import test from "node:test";
import { edgeCurve, edgeSpan, hatch, layoutNetwork, nearestEdge, riseAt, stepSelection, unitAt, unitPoint, windowAround }
  from "../../eclab/static/geometry.js";

const layer = (width, more = {}) => ({ width, kind: "linear", window: { start: 0, count: Math.min(width, 16) }, ...more });
const net = [layer(2, { kind: "input" }), layer(6), layer(4), layer(2)];
const links = [{ from: 0, to: 1 }, { from: 1, to: 2 }, { from: 2, to: 3 }];

test("columns spread over the width and units are centred", () => {
  const layout = layoutNetwork(net, 900, 420);
  assert.equal(layout.columns.length, 4);
  assert.equal(layout.width, 900);
  for (const column of layout.columns) {
    const middle = (column.spots[0].y + column.spots.at(-1).y) / 2;
    assert.ok(Math.abs(middle - (57 + (420 - 57 - 56) / 2)) < 1e-9);
    assert.ok(column.top > 57 - 1 && column.bottom < 420 - 56 + 1);
  }
});

test("many layers make the picture wider instead of touching", () => {
  const layout = layoutNetwork(Array.from({ length: 20 }, () => layer(4)), 600, 420);
  assert.ok(layout.width > 600);
  assert.ok(layout.gap >= 66);
});

test("40 units still fit and do not overlap", () => {
  const [column] = layoutNetwork([layer(40, { window: { start: 0, count: 40 } })], 600, 420).columns;
  assert.ok(column.bottom - column.top <= 420 - 57 - 56 + 1);
  assert.ok(2 * column.half < column.spacing);
});

test("a folded layer keeps absolute unit numbers and knows what it hides", () => {
  const [column] = layoutNetwork([layer(64, { window: { start: 16, count: 16 } })], 600, 420).columns;
  assert.ok(column.folded);
  assert.deepEqual([column.before, column.behind], [16, 32]);
  assert.equal(column.spots[0].index, 16);
  assert.equal(unitPoint(column, 20).hidden, false);
  assert.ok(unitPoint(column, 3).hidden && unitPoint(column, 3).y < column.top);
  assert.ok(unitPoint(column, 60).hidden && unitPoint(column, 60).y > column.bottom);
});

test("convolutions and images are tiles", () => {
  const [image, conv, dense] = layoutNetwork([layer(3, { kind: "input", shape: [3, 8, 8] }), layer(8, { kind: "conv" }), layer(4)], 600, 420).columns;
  assert.ok(image.tiles && conv.tiles && !dense.tiles);
});

test("an edge rises from 0 to 1, steepest in the middle", () => {
  assert.ok(riseAt(0, 100, 0) < 1e-6 && riseAt(0, 100, 100) > 1 - 1e-6);
  assert.ok(Math.abs(riseAt(0, 100, 50) - 0.5) < 1e-6);
  assert.ok(riseAt(0, 100, 25) < 0.25);
});

test("the pointer finds the edge it is on, on every edge and at every place", () => {
  const layout = layoutNetwork(net, 900, 420);
  links.forEach((link, index) => {
    const [from, to] = [layout.columns[link.from], layout.columns[link.to]];
    const [x0, x1] = edgeSpan(from, to);
    for (const tail of from.spots) {
      for (const head of to.spots) {
        const x = x0 + 0.31 * (x1 - x0);
        const y = tail.y + (head.y - tail.y) * riseAt(x0, x1, x);
        const found = nearestEdge(layout, links, () => 0, x, y);
        assert.deepEqual(found, { link: index, tail: tail.index, head: head.index });
      }
    }
  });
  assert.equal(nearestEdge(layout, links, () => 0, 200, 5), null);
});

test("of two edges at one place the stronger one is meant", () => {
  const layout = layoutNetwork(net, 900, 420);
  const [x0, x1] = edgeSpan(layout.columns[1], layout.columns[2]);
  const strong = (link, tail, head) => (tail === 4 && head === 0 ? 1 : 0);
  const x = (x0 + x1) / 2;
  const y = (layout.columns[1].spots[4].y + layout.columns[2].spots[0].y) / 2;
  assert.deepEqual(nearestEdge(layout, links, strong, x, y + 0.5), { link: 1, tail: 4, head: 0 });
});

test("the pointer finds units", () => {
  const layout = layoutNetwork(net, 900, 420);
  for (const column of layout.columns) {
    for (const spot of column.spots) assert.deepEqual(unitAt(layout, spot.x + 2, spot.y - 2), { layer: column.layer, unit: spot.index });
  }
  assert.equal(unitAt(layout, 0, 0), null);
});

test("paths are plain SVG", () => {
  assert.match(edgeCurve(0, 10, 100, 20), /^M0\.0,10\.0C42\.0,10\.0 58\.0,20\.0 100\.0,20\.0$/);
  assert.match(hatch(10), /^M.*L/);
});

test("arrow keys walk through layers and stop at the ends", () => {
  assert.deepEqual(stepSelection(net, { layer: 1, unit: 0 }, "up"), { layer: 1, unit: 0 });
  assert.deepEqual(stepSelection(net, { layer: 1, unit: 5 }, "down"), { layer: 1, unit: 5 });
  assert.deepEqual(stepSelection(net, { layer: 1, unit: 5 }, "right"), { layer: 2, unit: 3 });
  assert.deepEqual(stepSelection(net, { layer: 0, unit: 1 }, "left"), { layer: 0, unit: 1 });
});

test("the window follows a unit by whole pages and stays inside", () => {
  const window = { start: 0, count: 16 };
  assert.equal(windowAround(window, 64, 5), window);
  assert.deepEqual(windowAround(window, 64, 16), { start: 16, count: 16 });
  assert.deepEqual(windowAround(window, 70, 69), { start: 54, count: 16 });
});
