// The logarithmic scale of a unit: slider, ring and colour strength. No DOM.

export const DECADES = 3; // the slider reaches from 10⁻³ to 10³

/**
 * @param {number} position of the slider, in decades
 * @returns {number} c
 */
export function scaleOf(position) {
  return 10 ** Math.max(-DECADES, Math.min(DECADES, position));
}

/**
 * @param {number} c
 * @returns {number} decades, clipped to the slider
 */
export function positionOf(c) {
  if (!(c > 0)) return 0;
  return Math.max(-DECADES, Math.min(DECADES, Math.log10(c)));
}

/**
 * Radius of a unit's ring: outside the unit for c ≥ 1, inside it for c < 1.
 * @param {number} c
 * @param {number} half radius of the unit
 * @param {number} [room] from one unit to the next: rings of neighbours should not cover each other
 * @returns {number}
 */
export function ringRadius(c, half, room = Infinity) {
  const decades = positionOf(c);
  const rest = half * 1.28 + 2;
  if (decades >= 0) return rest + decades * Math.max(0.8, Math.min(half * 0.72 + 1, 8, (room * 0.85 - rest) / DECADES));
  return Math.max(1.5, rest * (1 + decades / (DECADES + 0.6)));
}

/**
 * The new scale after dragging a ring: 36 pixels away from the unit are one decade.
 * @param {number} start c when the drag began
 * @param {number} pixels moved outwards (negative: inwards)
 * @returns {number}
 */
export function draggedScale(start, pixels) {
  return scaleOf(positionOf(start) + pixels / 36);
}

/**
 * Line width and opacity of a weight, relative to the largest of its link. The root keeps small weights visible.
 * @param {number} weight
 * @param {number} largest
 * @returns {{share: number, width: number, opacity: number}}
 */
export function weightLook(weight, largest) {
  const share = largest > 0 && Number.isFinite(weight) ? Math.min(1, Math.sqrt(Math.abs(weight) / largest)) : 0;
  return { share, width: 0.5 + 2.1 * share, opacity: 0.1 + 0.5 * share };
}

/**
 * The size that counts as "large" in a block of weights: its 95th percentile, so one outlier does not hide the rest.
 * @param {ArrayLike<number>} block
 * @returns {number}
 */
export function largeWeight(block) {
  const sizes = Float32Array.from(block, Math.abs).filter(Number.isFinite).sort();
  if (sizes.length === 0) return 0;
  const large = sizes[Math.floor((sizes.length - 1) * 0.95)];
  return large > 0 ? large : sizes[sizes.length - 1];
}
