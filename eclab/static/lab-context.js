// What one view of the lab knows, and who wants to hear about changes. No DOM.

import { Curves } from "./series.js";

/**
 * @typedef {{kind: "unit", layer: number, unit: number} | {kind: "edge", link: number, tail: number, head: number}
 *   | {kind: "layer", layer: number} | {kind: "lane", lane: string} | null} Selection
 * @typedef {"state" | "frame" | "lens" | "selection" | "hover" | "inspect" | "paths" | "map" | "same" | "lit" | "curves"
 *   | "charts" | "theme" | "view"} Topic
 */

export const LENSES = ["build", "classes", "paths", "race"];

export class Context {
  /** @param {import("./wire.js").Wire} wire @param {any} model */
  constructor(wire, model) {
    this.wire = wire;
    this.model = model;
    /** @type {any} */ this.state = null;
    /** @type {any} */ this.frame = null;
    this.weights = new Float32Array();
    /** @type {Map<number, {rows: number, cols: number, offset: number}>} */ this.blocks = new Map();
    /** @type {Selection} */ this.selection = null;
    /** @type {Selection} */ this.hover = null;
    // what is known about the selection
    /** @type {any} */ this.answer = null;
    /** @type {any} */ this.hoverAnswer = null;
    /** @type {any} */ this.paths = null;
    /** @type {any} */ this.same = null;
    /** @type {any} */ this.map = null;
    // a path lit by the paths table
    /** @type {any[] | null} */ this.lit = null;
    /** @type {any[]} */ this.charts = [];
    this.curves = new Curves();
    /** @type {Map<string, number>} scales being dragged, by "layer:unit" */
    this.dragged = new Map();
    /** @type {Map<string, number>} drags that are over, and until when the kernel's answer is waited for */
    this.settling = new Map();
    // whether a rescaling goes to all lanes
    this.everyLane = true;
    /** @type {Map<Topic, Set<() => void>>} */ this.ears = new Map();
  }

  /** @param {Topic | Topic[]} topics @param {() => void} act */
  on(topics, act) {
    for (const topic of [topics].flat()) {
      if (!this.ears.has(topic)) this.ears.set(topic, new Set());
      this.ears.get(topic)?.add(act);
    }
  }

  /** @param {Topic} topic */
  tell(topic) {
    for (const act of this.ears.get(topic) ?? []) act();
  }

  /** Once in the next picture, however often asked. @param {Topic} topic */
  tellSoon(topic) {
    this.soon ??= new Set();
    if (this.soon.size === 0) {
      requestAnimationFrame(() => {
        const topics = [...this.soon];
        this.soon.clear();
        for (const one of topics) this.tell(one);
      });
    }
    this.soon.add(topic);
  }

  /** @returns {any} view settings that a saved notebook remembers */
  get settings() {
    return this.model.get("settings") ?? {};
  }

  /** @param {object} changes */
  remember(changes) {
    this.model.set("settings", { ...this.settings, ...changes });
    try {
      this.model.save_changes();
    } catch {
      this.wire.lost?.();
    }
  }

  /** @returns {string} */
  get lens() {
    return LENSES.includes(this.settings.lens) ? this.settings.lens : "classes";
  }

  /** @param {string} lens */
  look(lens) {
    if (lens === this.lens) return;
    this.remember({ lens });
    this.tell("lens");
  }

  /** @param {Selection} selection */
  select(selection) {
    this.selection = selection;
    this.answer = null;
    this.lit = null;
    this.tell("selection");
    this.ask();
  }

  /** Ask the kernel about the selection. */
  ask() {
    if (!this.selection || !this.state) return;
    this.wire.send("inspect", this.describe(this.selection));
  }

  /** @param {Exclude<Selection, null>} what @returns {object} */
  describe(what) {
    const lane = this.state.race?.view_lane;
    if (what.kind === "unit" || what.kind === "layer") {
      return { ...what, name: this.state.layers[what.layer]?.name, lane };
    }
    return { lane, ...what };
  }

  /** Scale of a unit since the last training step. @param {number} layer @param {number} unit */
  scale(layer, unit) {
    const dragged = this.dragged.get(`${layer}:${unit}`);
    if (dragged !== undefined) return dragged;
    return this.kernelScale(layer, unit);
  }

  /** The same as the kernel last said it. @param {number} layer @param {number} unit @returns {number} */
  kernelScale(layer, unit) {
    return this.frame?.scales?.[layer]?.[unit - this.state.layers[layer].window.start] ?? 1;
  }

  /** The weight of an edge as last seen, NaN outside the windows. @param {number} link @param {number} tail @param {number} head */
  weight(link, tail, head) {
    const block = this.blocks.get(link);
    const place = this.state.links[link];
    if (!block || !place) return Number.NaN;
    const row = head - this.state.layers[place.to].window.start;
    const col = tail - this.state.layers[place.from].window.start;
    if (row < 0 || col < 0 || row >= block.rows || col >= block.cols) return Number.NaN;
    return this.weights[block.offset + row * block.cols + col];
  }

  /** What a layer's unit is called. @param {number} layer @param {boolean} [capital] */
  unitWord(layer, capital = false) {
    const { kind, shape } = this.state.layers[layer];
    const word = kind === "conv" || (kind === "input" && shape?.length === 3) ? "channel" : kind === "input" ? "input" : "unit";
    return capital ? word[0].toUpperCase() + word.slice(1) : word;
  }

  /** @param {number} layer @param {number} unit @returns {string} */
  unitName(layer, unit) {
    const { label, kind } = this.state.layers[layer];
    const word = this.unitWord(layer, true);
    return kind === "input" ? `${word} ${unit + 1}` : `${word} ${unit + 1} of ${label}`;
  }

  /** @param {number} layer @param {number} unit @returns {{state: string, reason: string}} */
  unitState(layer, unit) {
    const { units, window } = this.state.layers[layer];
    return units?.[unit - window.start] ?? { state: "free", reason: "" };
  }

  /** Whether a unit may be scaled. @param {number} layer @param {number} unit */
  scalable(layer, unit) {
    return layer > 0 && layer < this.state.layers.length - 1 && this.unitState(layer, unit).state !== "pinned";
  }
}
