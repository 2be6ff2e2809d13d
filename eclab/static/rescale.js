// One rescaling from the first touch to the release: sliders, rings and keys all end here.

import { paced } from "./wire.js";
import { scaleOf, positionOf } from "./scales.js";

/** @typedef {import("./lab-context.js").Context} Context */

const SETTLE = 1500; // milliseconds after which the kernel's scale is believed whatever it is

/** Sends a rescaling while it is dragged, at most 20 times a second, and commits it at the end. */
export class Rescaling {
  /** @param {Context} ctx @param {number} layer @param {number | null} unit null: the whole layer @param {Element | null} control */
  constructor(ctx, layer, unit, control = null) {
    Object.assign(this, { ctx, layer, unit, control });
    const { start, count } = ctx.state.layers[layer].window;
    const units = unit === null ? Array.from({ length: count }, (_, k) => start + k) : [unit];
    /** @type {Map<string, number>} the shown units' scales when the drag began */
    this.before = new Map(units.map((u) => [`${layer}:${u}`, ctx.scale(layer, u)]));
    /** The scale when the drag began; kernel and page count from here. */
    this.begin = unit === null ? 1 : ctx.scale(layer, unit);
    this.now = this.begin;
    this.post = paced(50, (c) => this.#send(c, false));
  }

  /** @param {number} c the unit's scale since the last training step */
  to(c) {
    if (!(c > 0)) return;
    this.now = c;
    for (const [key, before] of this.before) this.ctx.dragged.set(key, (before * c) / this.begin);
    this.ctx.tell("view");
    this.post(c / this.begin);
  }

  /** The finger is lifted. */
  commit() {
    this.post.cancel();
    this.#send(this.now / this.begin, true);
    // the kernel's own numbers take over as soon as they have arrived
    for (const key of this.before.keys()) this.ctx.settling.set(key, performance.now() + SETTLE);
  }

  /** @param {number} c @param {boolean} commit */
  #send(c, commit) {
    const layer = this.ctx.state.layers[this.layer];
    this.ctx.wire.send("rescale", {
      layer: layer.name, index: this.layer, unit: this.unit, c, commit, lanes: this.ctx.everyLane ? "all" : "one",
      lane: this.ctx.state.race?.view_lane }, this.control);
  }
}

/**
 * Scale a unit by a number of decades at once (keys).
 * @param {Context} ctx @param {number} decades
 * @returns {number | null} the new scale, null when the selection has none
 */
export function nudgeScale(ctx, decades) {
  const chosen = ctx.selection;
  if (chosen?.kind !== "unit" || !ctx.scalable(chosen.layer, chosen.unit)) return null;
  const move = new Rescaling(ctx, chosen.layer, chosen.unit);
  move.to(scaleOf(positionOf(move.begin) + decades));
  move.commit();
  return move.now;
}
