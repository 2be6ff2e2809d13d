// Messages where they belong: beside the control that caused them, and in a live region for screen readers.

import { h, iconButton, write } from "./dom.js";

const WORDS = { error: "Problem", warning: "Careful", info: "Done" };

export class Notes {
  /** @param {Record<string, HTMLElement>} regions where messages without a control go, by their "where" */
  constructor(regions) {
    this.regions = regions;
    this.live = h("div", { class: "ec-live", "aria-live": "polite", role: "status" });
    /** @type {Set<number>} */ this.timers = new Set();
  }

  /** Say it to screen readers only. @param {string} text */
  say(text) {
    write(this.live, text);
  }

  /**
   * @param {"error" | "warning" | "info" | "quiet"} level quiet: to screen readers only @param {string} text
   * @param {{control?: Element | null, where?: string}} [place]
   */
  show(level, text, place = {}) {
    if (level === "quiet") return this.say(text);
    const { host, control } = this.#host(place);
    // notes over the picture share one place
    if (this.regions.stage.contains(host)) this.sweep();
    host.querySelector(":scope > .ec-note")?.remove();
    const close = () => {
      note.remove();
      control?.removeAttribute("aria-invalid");
    };
    const note = h("div", { class: "ec-note", "data-level": level }, h("b", { text: `${WORDS[level] ?? ""}: ` }),
      h("span", { text }), iconButton("close", "dismiss", close, "ec-turn"));
    host.append(note);
    if (level === "error" && control?.matches("input, select")) this.#refuse(control);
    this.say(`${WORDS[level] ?? ""}: ${text}`);
    if (level === "info") this.#later(7000, close);
    return undefined;
  }

  /** Something worked: what was wrong about the network is over. */
  sweep() {
    for (const note of this.regions.stage.querySelectorAll(".ec-note")) note.remove();
  }

  /** A field keeps what was typed and is marked; a choice goes back to what holds. @param {any} control */
  #refuse(control) {
    if (control.matches("select")) control.value = control.dataset.holds ?? control.value;
    else if (control.matches("[type=checkbox]")) control.checked = !control.checked;
    else control.setAttribute("aria-invalid", "true");
  }

  /** A control was used again: what was said about it is over. @param {Element | null | undefined} control */
  clear(control) {
    if (!control) return;
    control.removeAttribute("aria-invalid");
    this.#host({ control }).host.querySelector(":scope > .ec-note")?.remove();
  }

  /** @param {{control?: Element | null, where?: string}} place */
  #host({ control, where }) {
    const live = control?.isConnected ? control : null;
    const field = live?.closest(".ec-lane, .ec-card, .ec-toolbar, .ec-transport");
    if (field) return { host: /** @type {HTMLElement} */ (field), control: live };
    return { host: this.regions[where ?? ""] ?? this.regions.stage, control: live };
  }

  /** @param {number} pause @param {() => void} act */
  #later(pause, act) {
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      act();
    }, pause);
    this.timers.add(timer);
  }

  close() {
    for (const timer of this.timers) clearTimeout(timer);
  }
}
