// The inspector: about what is selected, through the lens that is on.

import { beforeAfter, card, readings, sentence } from "./cards.js";
import { fill, h, iconButton, write } from "./dom.js";
import { SHARE, weightCards } from "./lens-paths.js";
import { goTo } from "./lens-build.js";
import { percent, times } from "./format.js";

/** @typedef {import("./lab-context.js").Context} Context */

export class Inspector {
  /** @param {Context} ctx @param {Record<string, any>} lenses */
  constructor(ctx, lenses) {
    Object.assign(this, { ctx, lenses });
    this.title = h("h4", { class: "ec-title" });
    this.clear = iconButton("close", "select nothing", () => ctx.select(null), "ec-turn");
    this.body = h("div", { class: "ec-stack" });
    this.element = h("aside", { class: "ec-inspector", "aria-label": "inspector" }, h("header", {}, this.title, this.clear), this.body);
    /** @type {(() => void)[]} */ this.patches = [];
    ctx.on(["state", "lens", "selection"], () => this.build());
    ctx.on(["inspect", "frame", "view", "same", "paths", "map", "hover", "lit", "theme"], () => this.patch());
  }

  build() {
    const { ctx } = this;
    if (!ctx.state) return;
    this.patches = [];
    fill(this.body, ...this.#cards());
    this.clear.hidden = !ctx.selection;
    this.patch();
  }

  patch() {
    if (!this.ctx.state) return;
    write(this.title, this.#heading());
    for (const act of this.patches) act();
  }

  #heading() {
    const { ctx } = this;
    if (ctx.lens === "paths" && ctx.hover?.kind === "edge") return "Weight under the pointer";
    const chosen = ctx.selection;
    if (chosen?.kind === "unit") return ctx.unitName(chosen.layer, chosen.unit);
    if (chosen?.kind === "layer") return ctx.state.layers[chosen.layer].label;
    if (chosen?.kind === "edge") return "Weight";
    if (chosen?.kind === "lane") return ctx.state.lanes.find((l) => l.name === chosen.lane)?.label ?? "Lane";
    return { build: "Network", classes: "Equivalent networks", paths: "Paths of the network", race: "The race" }[ctx.lens] ?? "";
  }

  /** @returns {HTMLElement[]} */
  #cards() {
    const { ctx, patches } = this;
    const lens = this.lenses[ctx.lens];
    const parts = lens.panel(ctx, patches);
    const chosen = ctx.selection;
    const own = [];
    if (chosen?.kind === "edge" && ctx.lens !== "paths") own.push(...weightCards(ctx, patches));
    if (chosen?.kind === "unit") {
      const cards = h("div", { class: "ec-stack" }, ...this.#unit(chosen));
      patches.push(() => {
        cards.hidden = cards.childElementCount === 0 || (ctx.lens === "paths" && ctx.hover?.kind === "edge");
      });
      own.push(cards);
    }
    if (chosen?.kind === "layer" && ctx.lens !== "build" && this.#folded(chosen.layer)) own.push(goTo(ctx, chosen.layer));
    return [...own, ...parts];
  }

  /** @param {number} layer */
  #folded(layer) {
    const { width, window } = this.ctx.state.layers[layer];
    return window.count < width;
  }

  /** @param {{layer: number, unit: number}} chosen @returns {HTMLElement[]} */
  #unit({ layer, unit }) {
    const { ctx, patches } = this;
    const last = layer === ctx.state.layers.length - 1;
    const { state, reason } = ctx.unitState(layer, unit);
    if (layer === 0) return [card(sentence("Inputs are ground: their scale is fixed at 1, since rescaling one would change the data."))];
    if (last) return [card(sentence("Outputs are ground: their scale is fixed at 1, since rescaling one would change the function."))];
    const parts = [];
    if (state !== "free") {
      parts.push(card(h("div", { class: "ec-cardhead" }, h("span", { text: "scale" }), h("b", { class: "ec-badge", "data-state": state, text: state })),
        sentence(reason || "Its scale cannot be moved on its own.")));
    }
    if (ctx.lens === "paths" || ctx.lens === "race") {
      const scale = h("b");
      patches.push(() => write(scale, times(ctx.scale(layer, unit))));
      if (state !== "pinned") parts.push(card(h("div", { class: "ec-cardhead" }, h("span", { text: "scale c" }), scale)));
      parts.push(beforeAfter(ctx, patches));
      parts.push(card(readings(patches, [["share of path value", () => percent(ctx.answer?.share), SHARE]])));
    }
    return parts;
  }
}
