// The timeline: transport, lanes, speed. The curves beside it live in charts.js.

import { button, entry, fill, h, icon, iconButton, patch, write } from "./dom.js";
import { brief, count, parseNumber, percent, typed } from "./format.js";
import { laneNow, overheadText } from "./lens-race.js";

/** @typedef {import("./lab-context.js").Context} Context */

const MOST_LANES = 8;

export class Timeline {
  /** @param {Context} ctx @param {HTMLElement} charts */
  constructor(ctx, charts) {
    this.ctx = ctx;
    this.play = iconButton("play", "play (Space)", () => this.toggle(), "ec-play");
    this.stepButton = iconButton("step", "one step (.)", () => ctx.wire.send("step", {}, this.stepButton));
    this.stopButton = iconButton("stop", "stop", () => ctx.wire.send("stop", {}, this.stopButton));
    this.resetButton = iconButton("reset", "back to the start weights", () => ctx.wire.send("reset", {}, this.resetButton));
    this.step = h("span", { class: "ec-step" });
    this.bar = h("div", { class: "ec-progress", role: "progressbar", "aria-label": "steps done", "aria-valuemin": 0 }, h("i"));
    this.lanes = h("div", { class: "ec-lanes", role: "list", "aria-label": "lanes" });
    this.joining = h("select", { class: "ec-select ec-joining", "aria-label": "add a lane", title: "another optimizer, from the same start on the same batches", onchange: () => this.#join() });
    this.rescue = h("div", { class: "ec-rescue", role: "alert", hidden: true });
    this.speed = h("div", { class: "ec-speed" });
    this.eventLine = h("div", { class: "ec-speed ec-events" });
    this.transport = h("div", { class: "ec-transport" },
      h("div", { class: "ec-buttons" }, this.play, this.stepButton, this.stopButton, this.resetButton, this.step), this.bar);
    this.region = h("div", { class: "ec-control" }, this.transport, this.lanes, this.joining, this.rescue, this.speed, this.eventLine);
    this.element = h("section", { class: "ec-timeline", "aria-label": "timeline" }, this.region, charts);
    /** @type {Map<string, any>} */ this.rows = new Map();
    ctx.on("state", () => this.build());
    ctx.on(["frame", "selection"], () => this.patch());
  }

  /** Play or pause, whichever the race is not doing. */
  toggle() {
    this.ctx.wire.send(this.ctx.frame?.running ? "pause" : "play", {}, this.play);
  }

  /** One lane more. */
  #join() {
    const kind = this.joining.value;
    this.joining.value = "";
    if (kind) this.ctx.wire.send("lane_add", { kind }, this.joining);
  }

  build() {
    const { lanes: all = [], kinds = [] } = this.ctx.state;
    const lanes = JSON.stringify([all, kinds]);
    this.joining.hidden = kinds.length === 0 || all.length >= MOST_LANES;
    if (lanes === this.built) return this.patch();
    fill(this.joining, h("option", { value: "", text: "+ add a lane" }), ...kinds.map((k) => h("option", { value: k.name, text: k.label })));
    this.joining.value = "";
    this.built = lanes;
    this.rows.clear();
    const head = h("div", { class: "ec-lane ec-lanehead", "aria-hidden": "true" }, h("span", { text: "lane" }), h("span", { text: "rate" }), h("span", { text: "accuracy" }));
    head.hidden = this.ctx.state.trainable === false;
    fill(this.lanes, head, ...all.map((lane) => this.#lane(lane)));
    return this.patch();
  }

  /** @param {any} lane */
  #lane(lane) {
    const { ctx } = this;
    const rate = entry("lr", typed(lane.lr), (text, control) => {
      const value = parseNumber(text);
      if (!Number.isFinite(value)) {
        ctx.notes.show("error", `the learning rate is "${text}"; give a number above 0, such as 0.1`, { control });
        return;
      }
      ctx.notes.clear(control);
      ctx.wire.send("lr", { lane: lane.name, value }, control);
    }, { "aria-label": `learning rate of ${lane.label}`, size: 5 });
    const pick = () => ctx.select(ctx.selection?.kind === "lane" && ctx.selection.lane === lane.name ? null : { kind: "lane", lane: lane.name });
    const name = h("button", { type: "button", class: "ec-lanebutton", title: `about ${lane.label}`, onclick: pick },
      h("i", { class: "ec-swatch", style: `background:var(--ec-lane${lane.colour % 8})` }), h("span", { text: lane.label }));
    const verdict = h("b", { class: "ec-lanestate" });
    rate.hidden = lane.lr === null || lane.lr === undefined;
    const leave = iconButton("close", `remove ${lane.label}`, () => ctx.wire.send("lane_remove", { lane: lane.name }, leave), "ec-turn ec-leave");
    leave.hidden = ctx.state.lanes.length < 2;
    const row = h("div", { class: "ec-lane", role: "listitem" }, name, rate, verdict, leave);
    this.rows.set(lane.name, { row, name, rate: rate.control, verdict, lane });
    return row;
  }

  patch() {
    const { ctx } = this;
    const frame = ctx.frame ?? {};
    this.#transport(frame);
    for (const { name, rate, verdict, lane } of this.rows.values()) {
      const now = laneNow(ctx, lane);
      const active = rate.getRootNode().activeElement === rate || rate.getAttribute("aria-invalid");
      if (!active && now.lr !== undefined) {
        const text = typed(now.lr);
        if (rate.value !== text) rate.value = text;
      }
      const gone = now.state === "diverged";
      write(verdict, gone ? "diverged" : accuracyText(now));
      verdict.dataset.tone = gone ? "bad" : "";
      verdict.title = gone ? (now.verdict ?? "") : now.test_acc === null || now.test_acc === undefined ? "training accuracy" : "test accuracy";
      patch(name, "aria-pressed", String(ctx.selection?.kind === "lane" && ctx.selection.lane === lane.name));
    }
    this.#texts(frame);
    this.#help(frame);
    this.#announce(frame);
  }

  /** A lane was lost: where and why, and the ways back. @param {any} frame */
  #help(frame) {
    const lost = (frame.lanes ?? []).filter((l) => l.state === "diverged");
    const now = JSON.stringify([lost.map((l) => [l.name, l.verdict]), frame.rewind]);
    if (now === this.helped) return;
    this.helped = now;
    this.rescue.hidden = lost.length === 0;
    if (lost.length === 0) return fill(this.rescue);
    const { wire } = this.ctx;
    const label = (name) => this.rows.get(name)?.lane.label ?? name;
    const words = lost.map((l) => h("div", {}, h("b", { text: label(l.name) }), ` ${l.verdict}`));
    const back = button(`Rewind to step ${count(frame.rewind)}`, () => wire.send("rewind", {}, back), { title: "all lanes go back together" });
    const half = button("at half its rate", () => wire.send("rewind", { factor: 0.5 }, half), { title: "and the lanes that diverged go on at half their learning rate" });
    const anew = button("Reset", () => wire.send("reset", {}, anew), { title: "back to the start weights; lower the learning rate first" });
    const known = frame.rewind !== null && frame.rewind !== undefined;
    return fill(this.rescue, ...words, h("div", { class: "ec-actions" }, ...(known ? [back, half] : [anew])));
  }

  /** Starts, ends and divergences in words, for those who do not see the curves. @param {any} frame */
  #announce(frame) {
    const gone = (frame.lanes ?? []).filter((l) => l.state === "diverged").length;
    const now = `${Boolean(frame.running)} ${Boolean(frame.finished)} ${gone}`;
    if (now === this.announced) return;
    const first = this.announced === undefined;
    this.announced = now;
    if (first || frame.step === undefined) return;
    const lanes = [...this.rows.values()].map(({ lane, verdict }) => `${lane.label} ${verdict.textContent}`).join(", ");
    const what = frame.finished ? "finished" : frame.running ? "running" : "paused";
    this.ctx.notes.say(`Race ${what} at step ${count(frame.step)}: ${lanes}`);
  }

  /** @param {any} frame */
  #transport(frame) {
    const state = frame.running ? "pause" : "play";
    if (this.play.dataset.state !== state) {
      this.play.dataset.state = state;
      fill(this.play, icon(state));
      const label = `${state} (Space)`;
      this.play.title = label;
      this.play.setAttribute("aria-label", label);
    }
    const [done, total] = [frame.step ?? 0, frame.total_steps ?? this.ctx.state?.race?.total_steps ?? 0];
    write(this.step, total ? `step ${count(done)}\nof ${count(total)}` : `step ${count(done)}`);
    this.bar.firstChild.style.transform = `scaleX(${total ? Math.min(1, done / total) : 0})`;
    patch(this.bar, "aria-valuemax", total || 1);
    patch(this.bar, "aria-valuenow", done);
    const still = this.ctx.state?.trainable === false;
    const off = [frame.finished || still, frame.running || frame.finished || still, !frame.running, !frame.running && !done];
    const buttons = [this.play, this.stepButton, this.stopButton, this.resetButton];
    const held = buttons.indexOf(this.element.getRootNode().activeElement);
    buttons.forEach((one, k) => {
      one.disabled = Boolean(off[k]);
    });
    // a button that was pressed and is off now hands the focus on, or the keys would stop working
    if (held >= 0 && off[held]) buttons.find((one) => !one.disabled)?.focus();
  }

  /** @param {any} frame */
  #texts(frame) {
    const speeds = Object.entries(frame.steps_per_second ?? {}).filter(([, v]) => v !== null && v !== undefined);
    const slowest = speeds.length ? Math.min(...speeds.map(([, v]) => Number(v))) : null;
    const parts = [];
    if (slowest !== null) parts.push(`${brief(slowest)} steps/s`);
    if (overheadText(this.ctx) !== "—") parts.push(`EC step ${overheadText(this.ctx)}`);
    if (frame.finished && (frame.lanes ?? []).some((l) => l.state !== "diverged")) parts.push("finished: ↺ starts anew, more epochs go on");
    const idle = this.ctx.state?.trainable === false ? "no labels were given, so there is nothing to train: eclab.Lab(model, x, y)"
      : "all lanes train in lockstep on the same batches";
    write(this.speed, parts.join(" · ") || idle);
    this.speed.title = speeds.map(([lane, v]) => `${lane}: ${brief(Number(v))} steps/s`).join("\n");
    const event = frame.events?.at(-1);
    write(this.eventLine, event ? (event.text.includes("step") ? event.text : `${event.text} at step ${count(event.step)}`) : "");
    this.eventLine.title = (frame.events ?? []).map((e) => `step ${count(e.step)}: ${e.text}`).join("\n");
  }
}

/** @param {any} now */
function accuracyText(now) {
  const share = now.test_acc ?? now.train_acc;
  return share === null || share === undefined ? "" : percent(share);
}
