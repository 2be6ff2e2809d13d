// What the colours mean; the skeleton can be shown or hidden here.

import { h } from "./dom.js";

/** @param {import("./lab-context.js").Context} ctx @returns {HTMLElement} */
export function legend(ctx) {
  const item = (kind, text) => h("span", { class: "ec-key" }, h("i", { "data-kind": kind }), text);
  const skeleton = h("button", { type: "button", class: "ec-key ec-keybutton", title: "show or hide the skeleton" },
    h("i", { "data-kind": "tree" }), h("span", { text: "skeleton: tree" }), h("i", { "data-kind": "b" }), h("span", { text: "b-edges" }), h("span", { class: "ec-off", text: "(hidden)" }));
  const show = () => {
    box.dataset.lens = ctx.lens;
    box.toggleAttribute("data-pinned", Boolean(ctx.state?.layers.slice(1, -1).some((l) => l.units?.some((u) => u.state === "pinned"))));
    const on = shown(ctx);
    skeleton.setAttribute("aria-pressed", String(on));
    box.dataset.skeleton = on ? "1" : "0";
    // the picture is the legend's neighbour on the stage
    const changed = box.parentElement?.hasAttribute("data-skeleton") !== on;
    box.parentElement?.toggleAttribute("data-skeleton", on);
    if (changed) ctx.tell("view");
  };
  skeleton.addEventListener("click", () => {
    ctx.remember({ skeleton: { ...ctx.settings.skeleton, [ctx.lens]: !shown(ctx) } });
    show();
  });
  const box = h("div", { class: "ec-legend" }, item("pos", "weight > 0"), item("neg", "weight < 0"), skeleton,
    item("ink", "path under the pointer"), item("ring", "ring = scale c of the unit"), item("hatch", "pinned: cannot be rescaled"));
  ctx.on(["state", "lens"], show);
  return box;
}

/** Build draws the plain network; Race the moving weights; the others show the skeleton. @param {import("./lab-context.js").Context} ctx */
function shown(ctx) {
  return ctx.settings.skeleton?.[ctx.lens] ?? (ctx.lens === "classes" || ctx.lens === "paths");
}
