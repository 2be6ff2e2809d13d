// What the kernel says, and what becomes of it.

import { askPaths } from "./lens-paths.js";
import { numbers } from "./wire.js";

/** @typedef {import("./lab-context.js").Context} Context */

// milliseconds between questions about the selection while the race runs
const ASK_AGAIN = 400;

/** @param {Context} ctx */
export function connect(ctx) {
  const { wire } = ctx;
  wire.on("state", (content) => takeState(ctx, content));
  wire.on("frame", (content, buffers) => takeFrame(ctx, content, buffers));
  wire.on("history", (content, buffers) => {
    ctx.curves.replace(content.columns ?? [], numbers(buffers[0], Float64Array), content.next ?? 0, content.run ?? ctx.curves.run);
    ctx.tell("curves");
  });
  wire.on("charts", (content) => {
    ctx.charts = content.charts ?? [];
    ctx.tell("charts");
  });
  wire.on("held", ({ step }) => {
    // the frame that says the same may have to wait for its turn
    if (!ctx.frame) return;
    ctx.frame = { ...ctx.frame, running: false, step };
    ctx.tell("frame");
  });
  wire.on("inspect", (content) => takeInspect(ctx, content));
  wire.on("paths", (content) => {
    if (content.id !== ctx.pathsAsked) return;
    ctx.paths = content;
    relight(ctx);
    ctx.tell("paths");
  });
  wire.on("same", (content) => {
    if (!wire.mine(content.id)) return;
    ctx.same = content;
    ctx.notes.say(content.text ?? (content.same ? "one class" : "different classes"));
    ctx.tell("same");
  });
  wire.on("map", (content, buffers) => takeMap(ctx, content, buffers));
  wire.on("file", (content) => wire.mine(content.id) && download(content.name, content.text));
  wire.on("message", (content) => {
    if (!wire.mine(content.id)) return;
    ctx.notes.show(content.level ?? "info", content.text, { control: wire.controls.get(content.id), where: content.where });
  });
  wire.used = (control) => ctx.notes.clear(control);
  ctx.fetchVega = () => new Promise((resolve) => {
    wire.on("vega", (_, buffers) => resolve(numbers(buffers[0], Uint8Array)));
    wire.send("vega");
  });
}

/** @param {Context} ctx @param {any} state */
function takeState(ctx, state) {
  const before = ctx.state;
  ctx.state = state;
  if (before && JSON.stringify(before.spec) !== JSON.stringify(state.spec)) ctx.notes.sweep();
  if (before && before.run !== state.run && state.run !== undefined) {
    ctx.curves.clear(state.run);
    ctx.map = null;
    ctx.tell("curves");
  }
  const shape = (s) => JSON.stringify([s?.layers.map((l) => [l.name, l.width]), s?.links]);
  const rebuilt = before && shape(before) !== shape(state);
  if (rebuilt) forget(ctx);
  ctx.tell("state");
  if (ctx.lens === "paths" && (rebuilt || !ctx.paths)) askPaths(ctx);
  if (ctx.selection) ctx.ask();
}

/** Another network: old answers, weights and selections beyond its end are void. @param {Context} ctx */
function forget(ctx) {
  [ctx.paths, ctx.same, ctx.lit, ctx.answer, ctx.hover, ctx.hoverAnswer] = [null, null, null, null, null, null];
  ctx.blocks.clear();
  ctx.dragged.clear();
  if (ctx.frame) ctx.frame = { ...ctx.frame, kernels: [], scales: {} };
  const { selection, state } = ctx;
  const layer = selection && "layer" in selection ? state.layers[selection.layer] : null;
  const gone = selection?.kind === "edge" || (selection && "layer" in selection && (!layer || ("unit" in selection && selection.unit >= layer.width)));
  if (gone) ctx.selection = null;
}

/** A lit path stays lit with its new values, as long as it is among the top. @param {Context} ctx */
function relight(ctx) {
  const way = (edges) => edges.map((e) => `${e.link},${e.tail},${e.head}`).join();
  const row = ctx.lit ? ctx.paths.rows?.find((r) => way(r.edges) === way(ctx.lit)) : null;
  [ctx.lit, ctx.litPath] = row ? [row.edges, row] : [null, null];
  ctx.tellSoon("lit");
}

/** @param {Context} ctx @param {any} frame @param {any[]} buffers */
function takeFrame(ctx, frame, buffers) {
  if (frame.n !== undefined) ctx.wire.send("ack", { n: frame.n });
  if (!ctx.state) return;
  const { curve, run } = frame;
  if (run !== undefined && run !== ctx.curves.run) ctx.curves.clear(run);
  if (curve && !ctx.curves.append(curve.columns ?? [], numbers(buffers[0], Float64Array), curve.from ?? 0)) ctx.wire.send("history");
  ctx.frame = frame;
  if (frame.blocks) {
    ctx.weights = numbers(buffers[1], Float32Array);
    ctx.blocks = new Map(frame.blocks.map((b) => [b.link, b]));
  }
  settle(ctx);
  if (ctx.lens === "paths" && !frame.running && frame.step !== ctx.pathsStep) askPaths(ctx);
  ctx.tellSoon("frame");
  ctx.tellSoon("curves");
  const now = performance.now();
  const moved = frame.step !== ctx.askedStep;
  if (ctx.selection && ctx.selection.kind !== "lane" && moved && now - (ctx.askedAt ?? 0) > ASK_AGAIN && ctx.settling.size === 0) {
    [ctx.askedAt, ctx.askedStep] = [now, frame.step];
    ctx.ask();
  }
}

/** Scales that were dragged are the kernel's again once it has them. @param {Context} ctx */
function settle(ctx) {
  for (const [key, until] of ctx.settling) {
    const [layer, unit] = key.split(":").map(Number);
    const there = Math.abs(Math.log(ctx.kernelScale(layer, unit) / (ctx.dragged.get(key) ?? 1))) < 0.01;
    if (!there && performance.now() < until) continue;
    ctx.settling.delete(key);
    ctx.dragged.delete(key);
  }
}

/** @param {Context} ctx @param {any} content */
function takeInspect(ctx, content) {
  if (!content.id || !ctx.wire.mine(content.id)) return;
  if (content.id === ctx.hoverAsked) ctx.hoverAnswer = content;
  // while dragging many questions are under way; of those about the selection the newest answer counts
  const number = Number(content.id.split(":")[1]);
  const about = ctx.selection && Object.entries(ctx.selection).every(([key, value]) => content[key] === value);
  if (about && number >= (ctx.answer?.number ?? 0)) ctx.answer = { ...content, number };
  if (about || content.id === ctx.hoverAsked) ctx.tell("inspect");
}

/** @param {Context} ctx @param {any} content @param {any[]} buffers */
function takeMap(ctx, content, buffers) {
  const lanes = content.lanes.length;
  ctx.map = {
    ...content,
    images: content.lanes.map((_, k) => numbers(buffers[k], Uint8Array)),
    difference: lanes > 1 ? numbers(buffers[lanes], Uint8Array) : null,
    points: numbers(buffers[lanes > 1 ? lanes + 1 : lanes], Float32Array),
  };
  ctx.mapOn = true;
  ctx.tellSoon("map");
}

/** Hand a text to the browser as a file. @param {string} name @param {string} text */
function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = document.createElement("a");
  [link.href, link.download] = [url, name];
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
