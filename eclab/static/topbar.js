// The top bar: lenses, facts, file and help.

import { fill, h, iconButton, patch, write } from "./dom.js";
import { count, percent } from "./format.js";
import { LENSES } from "./lab-context.js";

/** @typedef {import("./lab-context.js").Context} Context */

const TITLES = { build: "Build", classes: "Classes", paths: "Paths", race: "Race" };

export class TopBar {
  /** @param {Context} ctx @param {() => void} help */
  constructor(ctx, help) {
    this.ctx = ctx;
    /** @type {Map<string, HTMLButtonElement>} */
    this.lenses = new Map(LENSES.map((lens, k) => [lens, h("button", { type: "button", role: "radio", class: "ec-lens", text: TITLES[lens],
      title: `${TITLES[lens]} (${k + 1})`, onclick: () => ctx.look(lens) })]));
    const choices = h("div", { class: "ec-lenses", role: "radiogroup", "aria-label": "lens" }, ...this.lenses.values());
    this.facts = h("div", { class: "ec-facts" });
    this.undo = iconButton("undo", "undo (Ctrl+Z)", () => ctx.wire.send("undo", {}, this.undo), "ec-plain");
    this.redo = iconButton("redo", "redo (Ctrl+Y)", () => ctx.wire.send("redo", {}, this.redo), "ec-plain");
    this.save = iconButton("save", "save the network as a file", () => ctx.wire.send("save", {}, this.save), "ec-plain");
    const file = h("input", { type: "file", accept: ".json,application/json", hidden: true, onchange: async () => {
      const [chosen] = file.files ?? [];
      file.value = "";
      if (chosen) ctx.wire.send("spec", { spec: await chosen.text() }, this.load);
    } });
    this.load = iconButton("load", "load a network from a file", () => file.click(), "ec-plain");
    this.help = h("button", { type: "button", class: "ec-plain", text: "?", "aria-label": "keys and help", title: "keys and help (?)",
      "aria-expanded": "false", onclick: help });
    this.element = h("header", { class: "ec-top" }, h("span", { class: "ec-brand", text: "eclab" }), choices, this.facts,
      h("span", { class: "ec-topend" }, this.undo, this.redo, this.load, this.save, this.help, file));
    ctx.on(["state", "lens"], () => this.patch());
    ctx.on("frame", () => this.#deeds());
    this.patch();
  }

  patch() {
    for (const [lens, control] of this.lenses) {
      const on = this.ctx.lens === lens;
      patch(control, "aria-checked", String(on));
      patch(control, "tabindex", on ? "0" : "-1");
    }
    const facts = this.ctx.state?.facts;
    this.save.disabled = !facts || this.ctx.state.own_model;
    this.load.disabled = !facts;
    this.#deeds();
    if (!facts) return;
    const chips = [
      chip([["net", facts.net, `layers of the network: ${facts.net}`]]),
      chip([["data", facts.data, "data set"]]),
      chip([["m", count(facts.m), "number of weights"], ["H", count(facts.H), "free hidden units"],
        ["m−H", count(facts.class_dim), "dimension of the class space"], ["H/m", percent(facts.ratio), "redundant share of the weights"]]),
      chip([["device", facts.device, "where the race runs"]]),
    ];
    fill(this.facts, ...chips);
  }

  /** What undo and redo would do. */
  #deeds() {
    for (const [control, word, key] of [[this.undo, "undo", "Ctrl+Z"], [this.redo, "redo", "Ctrl+Y"]]) {
      const what = this.ctx.frame?.[word];
      control.disabled = !what;
      patch(control, "title", what ? `${word}: ${what} (${key})` : `nothing to ${word}`);
    }
  }
}

/** @param {[string, string, string][]} pairs */
function chip(pairs) {
  const box = h("span", { class: "ec-chip" });
  for (const [name, value, title] of pairs) {
    const reading = h("span", { title }, h("small", { text: name }), h("span"));
    write(reading.lastChild, value ?? "—");
    box.append(reading);
  }
  return box;
}
