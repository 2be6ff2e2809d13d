// The lab: puts the parts together and connects them to the kernel.

import { Charts } from "./charts.js";
import { fill, h, refocused } from "./dom.js";
import { Inspector } from "./inspector.js";
import { helpPanel, listenKeys } from "./keys.js";
import { Context } from "./lab-context.js";
import { buildLens } from "./lens-build.js";
import { classesLens } from "./lens-classes.js";
import { askPaths, pathsLens } from "./lens-paths.js";
import { laneChooser, raceLens } from "./lens-race.js";
import { legend } from "./legend.js";
import { connect } from "./messages.js";
import { Notes } from "./notes.js";
import { Stage } from "./stage.js";
import { Timeline } from "./timeline.js";
import { TopBar } from "./topbar.js";
import { Wire } from "./wire.js";

const LENS_PARTS = { build: buildLens, classes: classesLens, paths: pathsLens, race: raceLens };

/**
 * Called by anywidget once for every view. What it returns undoes it.
 * @param {{model: any, el: HTMLElement}} view
 * @returns {() => void}
 */
function render({ model, el }) {
  const wire = new Wire(model);
  const ctx = new Context(wire, model);
  const stage = new Stage(ctx);
  const inspector = new Inspector(ctx, LENS_PARTS);
  const charts = new Charts(ctx);
  const timeline = new Timeline(ctx, charts.element);
  const help = h("div");
  const top = new TopBar(ctx, () => toggleHelp(help, top));
  const toolbar = h("div", { class: "ec-toolbar", role: "toolbar", "aria-label": "tools of the lens" });
  const heading = h("h3", { class: "ec-title" });
  const corner = h("span", { class: "ec-corner" });
  const empty = h("div", { class: "ec-empty", role: "status" }, h("b", { text: "Waiting for the kernel" }),
    h("span", { text: "The network appears as soon as the cell has run. After a restart, run the cell again." }));
  const area = h("main", { class: "ec-stage" }, h("div", { class: "ec-stagehead" }, h("div", { class: "ec-headline" }, heading, corner), toolbar), stage.element, legend(ctx), empty);
  const root = h("div", { class: "eclab", "data-empty": "1" });
  ctx.notes = new Notes({ stage: area, timeline: timeline.region, charts: charts.element, lr: timeline.region, inspector: inspector.element,
    build: area, classes: area, paths: area, race: area });
  const lost = h("div", { class: "ec-lost", role: "alert", hidden: true }, h("b", { text: "This lab is no longer in the kernel. " }),
    h("span", { text: "What you see is how it was last. Run its cell again for a new one." }));
  wire.lost = () => {
    lost.hidden = false;
    root.toggleAttribute("data-lost", true);
  };
  root.append(h("div", { class: "ec-grid" }, top.element, h("div", { class: "ec-helpbox" }, lost, help), area, inspector.element, timeline.element), ctx.notes.live);

  const tools = () => {
    if (!ctx.state) return;
    root.removeAttribute("data-empty");
    const lens = LENS_PARTS[ctx.lens];
    fill(heading, h("span", { text: `${lens.title}: ` }), h("span", { class: "ec-hint", text: ctx.state.own_model && ctx.lens === "build" ? "your own model" : lens.hint }));
    const held = toolbar.dataset.lens === ctx.lens ? [...toolbar.querySelectorAll(":scope > .ec-note")] : [];
    refocused(toolbar, () => fill(toolbar, ...lens.toolbar(ctx), ...held));
    toolbar.dataset.lens = ctx.lens;
    refocused(corner, () => fill(corner, ctx.state.lanes.length > 1 ? laneChooser(ctx) : null));
  };
  // another view of the same lab may have changed the lens
  wire.settled = () => ctx.lens !== root.dataset.lens && ctx.tell("lens");
  ctx.on("lens", () => {
    root.dataset.lens = ctx.lens;
  });
  root.dataset.lens = ctx.lens;
  ctx.on(["state", "lens"], tools);
  ctx.on("lens", () => {
    ctx.notes.say(`${LENS_PARTS[ctx.lens].title} lens`);
    if (ctx.lens === "paths" && !ctx.paths && ctx.state) askPaths(ctx);
  });
  listenKeys(root, ctx, { toggle: () => timeline.toggle(), help: () => toggleHelp(help, top), focus: (l, u) => stage.units.focus(l, u) });
  connect(ctx);
  const unwatch = watchTheme(root, () => ctx.tell("theme"));
  el.append(root);
  const greet = greeter(ctx);
  return () => {
    clearInterval(greet);
    unwatch();
    stage.close();
    charts.close();
    ctx.notes.close();
    ctx.ears.clear();
    wire.close();
    root.remove();
  };
}

/** Says hello until the kernel answers: a page may be there before its kernel is. @param {Context} ctx */
function greeter(ctx) {
  let left = 4;
  ctx.wire.send("hello");
  const timer = setInterval(() => {
    left -= 1;
    if (ctx.state || left < 0) clearInterval(timer);
    else ctx.wire.send("hello");
  }, 4000);
  return timer;
}

/** @param {HTMLElement} help @param {TopBar} top */
function toggleHelp(help, top) {
  const open = help.childElementCount === 0;
  fill(help, open ? helpPanel(() => toggleHelp(help, top)) : null);
  top.help.setAttribute("aria-expanded", String(open));
  if (open) help.querySelector("button")?.focus();
  else top.help.focus();
}

/**
 * Calls when the page turns light or dark.
 * @param {HTMLElement} root @param {() => void} act
 * @returns {() => void}
 */
function watchTheme(root, act) {
  const media = matchMedia("(prefers-color-scheme: dark)");
  const observer = new MutationObserver(act);
  observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"] });
  media.addEventListener("change", act);
  return () => {
    observer.disconnect();
    media.removeEventListener("change", act);
  };
}

export default { render };
