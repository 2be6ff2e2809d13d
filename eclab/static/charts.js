// Live curves: Vega views that are made once and then only fed; crosshair and zoom shared by all.

import { choice, h, write } from "./dom.js";
import { count, num, percent } from "./format.js";
import { bounds, nearest, smoothed, smoothingFor, thinned } from "./series.js";
import { dressedSpec, vegaConfig, vegaEmbed } from "./vega.js";
import { paced } from "./wire.js";

/** @typedef {import("./lab-context.js").Context} Context */

// a line, in a chart about as many pixels wide
const POINTS = 320;
// milliseconds
const BUDGET = 12;
const SHOWN = ["loss", "accuracy", "gauge"];
const SHARES = ["test_acc", "train_acc"];

/** All charts of one view of the lab. */
export class Charts {
  /** @param {Context} ctx */
  constructor(ctx) {
    this.ctx = ctx;
    this.point = paced(40, (step) => this.panels.forEach((p) => p.point(step)));
    this.grid = h("div", { class: "ec-charts" });
    const smooth = h("input", { type: "range", class: "ec-slider ec-small", min: 0, max: 0.98, step: 0.02, "aria-label": "smoothing of the curves" });
    const now = h("span", { class: "ec-mute" });
    const show = () => {
      write(now, `smooth ${Number(smooth.value).toFixed(2)}`);
      smooth.style.setProperty("--ec-from", "0%");
      smooth.style.setProperty("--ec-to", `${(Number(smooth.value) / 0.98) * 100}%`);
    };
    smooth.value = String(this.smooth);
    show();
    smooth.addEventListener("input", () => {
      this.smoothNow = Number(smooth.value);
      show();
      this.feed(true);
    });
    smooth.addEventListener("change", () => ctx.remember({ smooth: Number(smooth.value) }));
    this.zoomOut = h("button", { type: "button", class: "ec-link", text: "whole run", hidden: true, onclick: () => this.zoom(null) });
    this.chooser = choice("curve", SHOWN, "loss", (name) => {
      this.ctx.remember({ chart: name });
      this.choose();
    });
    this.chooser.classList.add("ec-chooser");
    this.bar = h("div", { class: "ec-chartbar" }, this.chooser, h("label", { class: "ec-field" }, now, smooth), this.zoomOut);
    this.element = h("div", { class: "ec-curves" }, this.bar, this.grid);
    /** @type {Panel[]} */ this.panels = [];
    /** @type {Panel[]} panels that have not drawn the newest records yet */ this.waiting = [];
    this.domain = null;
    this.rest = 0;
    this.seen = -1;
    ctx.on("charts", () => this.build());
    ctx.on("theme", () => {
      this.redraw();
      // JupyterLab hides the page while it changes its theme, and what is hidden is not fed
      this.again = setTimeout(() => this.feed(true), 800);
    });
    ctx.on("state", () => this.#lanes());
    ctx.on("curves", () => this.feed(false));
    this.observer = new ResizeObserver(() => this.panels.forEach((p) => {
      p.resize();
      if (p.stale) p.feed();
    }));
    this.observer.observe(this.grid);
  }

  get smooth() {
    const kept = this.smoothNow ?? this.ctx.settings.smooth;
    return typeof kept === "number" && kept >= 0 && kept < 1 ? kept : 0.6;
  }

  /** New specifications: usually once. */
  build() {
    const specs = this.ctx.charts;
    this.panels.forEach((p) => p.close());
    this.waiting = [];
    const basic = specs.filter((s) => !s.name.endsWith("-linear"));
    const first = SHOWN.map((n) => basic.find((s) => s.name === n)).filter(Boolean);
    const chosen = first.length ? first : basic.slice(0, 3);
    this.panels = chosen.map((spec) => new Panel(this, spec, basic));
    this.grid.replaceChildren(...this.panels.map((p) => p.element));
    this.grid.style.setProperty("--ec-panels", String(this.panels.length));
    const options = chosen.map((s) => h("option", { value: s.name, text: s.title }));
    this.chooser.control.replaceChildren(...options);
    this.chooser.control.value = this.ctx.settings.chart ?? chosen[0]?.name ?? "";
    this.choose();
  }

  /** On a narrow page one chart stands for all. */
  choose() {
    const name = this.chooser.control.value;
    this.panels.forEach((p, k) => p.element.classList.toggle("ec-chosen", this.ctx.charts.length > 0 && (p.home === name || (!name && k === 0))));
    this.panels.forEach((p) => p.resize());
  }

  #lanes() {
    const names = JSON.stringify(this.ctx.state.lanes.map((l) => [l.label, l.colour]));
    if (names !== this.laneNames) this.redraw();
    this.laneNames = names;
  }

  redraw() {
    this.panels.forEach((p) => p.draw());
  }

  /** @param {boolean} all also when no record is new */
  feed(all) {
    if (all || this.seen !== this.ctx.curves.version) this.waiting = [...new Set([...this.waiting, ...this.panels])];
    this.seen = this.ctx.curves.version;
    const start = performance.now();
    // a slow machine draws one chart at a time, in turn, and rests in between; a fast one draws all of them
    while (this.waiting.length > 0 && (all || (start > this.rest && performance.now() - start < BUDGET))) this.waiting.shift()?.feed();
    const spent = performance.now() - start;
    if (spent > 1) this.rest = start + 4 * spent;
    if (this.waiting.length > 0) this.ctx.tellSoon("curves");
  }

  /** @param {[number, number] | null} domain */
  zoom(domain) {
    this.domain = domain;
    this.zoomOut.hidden = !domain;
    this.panels.forEach((p) => p.zoom());
  }

  /** All charts show the same steps, so that one crosshair means one moment. @returns {[number, number]} */
  get span() {
    const last = (this.ctx.state?.lanes ?? []).map((_, index) => this.ctx.curves.points(index, "step").steps.at(-1) ?? 1);
    return this.domain ?? [0, Math.max(1, ...last)];
  }

  close() {
    clearTimeout(this.again);
    this.observer.disconnect();
    this.point.cancel();
    this.panels.forEach((p) => p.close());
  }
}

// pixels of a letter of an event's text, and its most
const LETTER = 5.4;
const LONGEST = 190;

/**
 * Rows of the events; of texts that would overlap the gravest keeps its place, else the newest that has had time to show.
 * @param {{step: number, text: string, kind?: string}[]} events @param {[number, number]} span steps on the axis @param {number} width pixels of it
 * @returns {{x: number, text: string, kind: string, late: boolean}[]} late: its text stands on the left
 */
export function eventMarks(events, [first, last], width) {
  const rows = events.map((e, k) => {
    // the axis says at which step, the inspector says why
    const text = e.text.split(":")[0].replace(/ at step [\d,]+/, "");
    const [at, long] = [((e.step - first) / Math.max(last - first, 1)) * width, Math.min(LETTER * text.length, LONGEST)];
    const late = at + long > width;
    return { k, row: { x: e.step, text, kind: e.kind ?? "", late }, from: late ? at - long : at, to: late ? at : at + long };
  });
  // what happened at the very end has shown no effect yet
  const grave = (r) => (r.row.kind === "diverged" ? 2 : r.row.x < last ? 1 : 0);
  const placed = [];
  for (const one of [...rows].sort((a, b) => grave(b) - grave(a) || b.k - a.k)) {
    if (placed.some((other) => one.from < other.to && other.from < one.to)) one.row.text = "";
    else placed.push(one);
  }
  return rows.map((r) => r.row);
}

/** One chart: a chooser as its title, an axis switch, the reading under the crosshair. */
class Panel {
  /** @param {Charts} charts @param {any} spec @param {any[]} all */
  constructor(charts, spec, all) {
    Object.assign(this, { charts, ctx: charts.ctx, home: spec.name, spec });
    this.title = choice("", all.map((s) => ({ name: s.name, label: s.title })), spec.name, (name) => {
      this.spec = all.find((s) => s.name === name);
      this.element.title = this.spec.note ?? "";
      this.draw();
    });
    this.title.classList.add("ec-charttitle");
    this.title.control.setAttribute("aria-label", "curve shown here");
    this.reading = h("span", { class: "ec-reading" });
    this.axis = h("button", { type: "button", class: "ec-link", title: "switch between a logarithmic and a linear axis", onclick: () => this.#toggleLog() });
    this.host = h("div", { class: "ec-vega" });
    this.plot = h("div", { class: "ec-plot", "data-blank": "drawing the axes …" }, this.host);
    this.element = h("div", { class: "ec-chart" }, h("header", {}, this.title, this.reading, this.axis), this.plot);
    this.generation = 0;
    this.plot.addEventListener("pointermove", (e) => this.#move(e));
    this.plot.addEventListener("pointerleave", () => charts.point(null));
    this.plot.addEventListener("pointerdown", (e) => this.#press(e));
    this.plot.addEventListener("pointerup", (e) => this.#release(e));
    this.plot.addEventListener("dblclick", () => charts.zoom(null));
    this.draw();
  }

  get log() {
    const chosen = this.ctx.settings.log?.[this.spec.name];
    return typeof chosen === "boolean" ? chosen : this.spec.scale === "log" || this.spec.scale === "symlog";
  }

  #toggleLog() {
    this.ctx.remember({ log: { ...this.ctx.settings.log, [this.spec.name]: !this.log } });
    this.draw();
  }

  /** Make the Vega view anew: another curve, axis or theme. */
  async draw() {
    this.generation += 1;
    const { generation } = this;
    write(this.axis, this.log ? "log" : "linear");
    this.axis.setAttribute("aria-pressed", String(this.log));
    let made;
    try {
      const embed = await vegaEmbed(this.ctx.fetchVega);
      if (generation !== this.generation) return;
      const style = getComputedStyle(this.element);
      const read = (name) => style.getPropertyValue(name).trim();
      const natural = this.spec.scale === "linear" ? !this.log : this.log;
      const lanes = (this.ctx.state?.lanes ?? []).map((l) => ({ label: l.label, place: l.colour % 8, colour: read(`--ec-lane${l.colour % 8}`) }));
      const spec = dressedSpec(this.spec.spec, { lanes,
        log: natural ? null : this.log, read });
      const host = h("div", { class: "ec-vega" });
      made = await embed(host, spec, { mode: "vega", actions: false, renderer: "canvas", defaultStyle: false,
        config: vegaConfig(read), hover: false, tooltip: false, logLevel: 1 });
      if (generation !== this.generation) return made.finalize();
      // the old picture stays until the new one is there
      this.made?.finalize();
      this.made = made;
      this.size = "";
      this.host.replaceWith(host);
      this.host = host;
      this.resize();
      this.feed();
      this.zoom();
    } catch (problem) {
      made?.finalize();
      this.ctx.notes.show("error", `the chart cannot be drawn: ${problem.message ?? problem}`, { where: "charts" });
    }
  }

  resize() {
    const [width, height] = [this.plot.clientWidth, this.plot.clientHeight];
    if (!this.made || width < 60 || height < 40) return;
    if (this.size === `${width}×${height}`) return;
    this.size = `${width}×${height}`;
    this.made.view.width(width).height(height).resize().runAsync();
  }

  /** Values of a lane for this chart. @param {number} index */
  #points(index) {
    const { curves } = this.ctx;
    if (this.spec.column !== "ms") return curves.points(index, this.spec.column);
    const [forward, step] = [curves.points(index, "ms_forward_backward"), curves.points(index, "ms_step")];
    return { steps: step.steps, values: step.values.map((v, i) => 1000 / Math.max(v + (forward.values[i] ?? 0), 1e-9)) };
  }

  feed() {
    // what is not seen is not drawn: JupyterLab takes cells that are scrolled away out of the page
    this.stale = Boolean(this.made) && !this.element.offsetParent;
    if (!this.made || this.stale) return undefined;
    // it may have been made while the page was hidden, as JupyterLab does when it changes its theme
    this.resize();
    const [raw, soft] = [[], []];
    const positive = this.log && this.spec.scale !== "symlog";
    const all = (this.ctx.state?.lanes ?? []).map((_, index) => this.#points(index));
    const [floor, top] = SHARES.includes(this.spec.column) ? [-Infinity, Infinity] : bounds(all.map((p) => p.values));
    const kept = (value) => !positive || value > 0;
    const held = (value) => Math.min(Math.max(value, floor), top);
    (this.ctx.state?.lanes ?? []).forEach((lane, index) => {
      const { steps } = all[index];
      const values = all[index].values.map(held);
      const calm = smoothed(values, smoothingFor(this.charts.smooth, values.length));
      for (const i of thinned(values, POINTS)) if (kept(values[i])) raw.push({ lane: lane.label, x: steps[i], y: values[i] });
      for (const i of thinned(calm, POINTS)) if (kept(calm[i])) soft.push({ lane: lane.label, x: steps[i], y: calm[i] });
    });
    if (raw.length === 0) return this.plot.setAttribute("data-blank", "press play, and the curve grows here");
    this.plot.removeAttribute("data-blank");
    this.#data("curve", raw);
    this.#data("smooth", soft);
    this.#data("events", eventMarks(this.ctx.frame?.events ?? [], this.charts.span, this.plot.clientWidth - 50));
    if (this.spec.spec.signals?.some((s) => s.name === "domainX")) this.made.view.signal("domainX", this.charts.span);
    return this.made.view.run();
  }

  /** @param {string} name @param {object[]} rows */
  #data(name, rows) {
    if (this.spec.spec.data?.some((d) => d.name === name)) this.made.view.data(name, rows);
  }

  /** @param {PointerEvent} event @returns {number | null} the step under the pointer */
  #step(event) {
    if (!this.made) return null;
    const box = this.host.getBoundingClientRect();
    const x = event.clientX - box.left - this.made.view.origin()[0];
    const scale = this.made.view.scale("x");
    const [low, high] = scale.range();
    return x < low - 4 || x > high + 4 ? null : Math.max(0, scale.invert(Math.min(Math.max(x, low), high)));
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const step = this.#step(event);
    this.charts.point(step);
  }

  /** @param {PointerEvent} event */
  #press(event) {
    this.from = this.#step(event);
    this.fromX = event.clientX;
    this.plot.setPointerCapture(event.pointerId);
  }

  /** @param {PointerEvent} event */
  #release(event) {
    const to = this.#step(event);
    if (this.from !== null && to !== null && Math.abs(event.clientX - this.fromX) > 8) {
      this.charts.zoom([Math.min(this.from, to), Math.max(this.from, to)]);
    }
    this.from = null;
  }

  /** @param {number | null} step */
  point(step) {
    this.#signal("hoverX", step);
    this.#read(step);
  }

  zoom() {
    this.#signal("domainX", this.charts.span);
  }

  close() {
    this.generation += 1;
    this.made?.finalize();
    this.made = null;
  }

  /** @param {string} name @param {any} value */
  #signal(name, value) {
    if (!this.made || !this.spec.spec.signals?.some((s) => s.name === name)) return;
    this.made.view.signal(name, value).runAsync();
  }

  /** The real, unsmoothed values nearest to a step, in the lanes' colours. @param {number | null} step */
  #read(step) {
    const parts = [];
    (step === null ? [] : (this.ctx.state?.lanes ?? [])).forEach((lane, index) => {
      const points = this.#points(index);
      const i = nearest(points.steps, step);
      if (i < 0) return;
      if (parts.length === 0) parts.push(h("span", { text: `step ${count(Math.round(points.steps[i]))}` }));
      const text = SHARES.includes(this.spec.column) ? percent(points.values[i]) : num(points.values[i]);
      parts.push(h("b", { text, title: lane.label, style: `color:var(--ec-text${lane.colour % 8})` }));
    });
    this.reading.replaceChildren(...parts);
  }
}
