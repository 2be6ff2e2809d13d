// Making elements. The only place that knows about namespaces, icons and small controls.

const SVG = "http://www.w3.org/2000/svg";

/** @typedef {Record<string, any>} Attributes */

/** @param {Element} element @param {Attributes} attributes */
function dress(element, attributes) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "text") element.textContent = value;
    else if (key === "value") /** @type {any} */ (element).value = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
}

/**
 * An HTML element; `on…` attributes become listeners, `text` the text.
 * @param {string} tag @param {Attributes} [attributes] @param {...(Node | string | null)} children
 * @returns {any}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const child of children) if (child !== null) element.append(child);
  dress(element, attributes);
  return element;
}

/**
 * An SVG element.
 * @param {string} tag @param {Attributes} [attributes] @param {...Node} children
 * @returns {any}
 */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  dress(element, attributes);
  element.append(...children);
  return element;
}

/**
 * Sets an attribute only when it changes, so that frames touch as little as possible.
 * @param {Element} element @param {string} name @param {string | number} value
 */
export function patch(element, name, value) {
  const text = String(value);
  if (element.getAttribute(name) !== text) element.setAttribute(name, text);
}

/** @param {Node} element @param {string} text */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const ICONS = {
  play: "M5 3.2v9.6L13 8z",
  pause: "M4.5 3h2.6v10H4.5zM8.9 3h2.6v10H8.9z",
  step: "M4 3.2v9.6L10 8zM10.6 3h1.9v10h-1.9z",
  stop: "M4 4h8v8H4z",
  reset: "M8 3a5 5 0 1 1-4.7 3.3l1.5.6A3.4 3.4 0 1 0 8 4.6v2L4.6 3.8 8 1z",
  plus: "M7.2 3h1.6v4.2H13v1.6H8.8V13H7.2V8.8H3V7.2h4.2z",
  minus: "M3 7.2h10v1.6H3z",
  close: "M4.2 3.1 8 6.9l3.8-3.8 1.1 1.1L9.1 8l3.8 3.8-1.1 1.1L8 9.1l-3.8 3.8-1.1-1.1L6.9 8 3.1 4.2z",
  undo: "M6 3v2.4h3.2a3.8 3.8 0 0 1 0 7.6H5v-1.6h4.2a2.2 2.2 0 0 0 0-4.4H6v2.4L2.2 6.2z",
  redo: "M10 3v2.4H6.8a3.8 3.8 0 0 0 0 7.6H11v-1.6H6.8a2.2 2.2 0 0 1 0-4.4H10v2.4l3.8-3.2z",
  save: "M7.2 2h1.6v5.6l2-2 1.1 1.1L8 10.6 4.1 6.7l1.1-1.1 2 2zM3 11.4h1.6v1.2h6.8v-1.2H13V14H3z",
  load: "M7.2 10.6h1.6V5l2 2 1.1-1.1L8 2 4.1 5.9 5.2 7l2-2zM3 11.4h1.6v1.2h6.8v-1.2H13V14H3z",
  left: "M10.4 3.2 5.6 8l4.8 4.8 1.1-1.1L7.8 8l3.7-3.7z",
  right: "M5.6 3.2 10.4 8l-4.8 4.8-1.1-1.1L8.2 8 4.5 4.3z",
};

/** @param {keyof ICONS} name @returns {SVGElement} */
export function icon(name) {
  return svg("svg", { viewBox: "0 0 16 16", class: "ec-icon", "aria-hidden": "true" }, svg("path", { d: ICONS[name] }));
}

/**
 * A button with an icon and a name for screen readers and the tooltip.
 * @param {keyof ICONS} name @param {string} label @param {(event: Event) => void} act @param {string} [kind]
 * @returns {HTMLButtonElement}
 */
export function iconButton(name, label, act, kind = "ec-round") {
  return h("button", { type: "button", class: kind, "aria-label": label, title: label, onclick: act }, icon(name));
}

/**
 * @param {string} label @param {(event: Event) => void} act @param {Attributes} [more]
 * @returns {HTMLButtonElement}
 */
export function button(label, act, more = {}) {
  return h("button", { type: "button", class: "ec-button", text: label, onclick: act, ...more });
}

/**
 * A labelled select. Entries are names or {name, label, available, reason}.
 * @param {string} label @param {(string | {name: string, label?: string, available?: boolean, reason?: string})[]} entries
 * @param {string | null} chosen @param {(value: string, control: HTMLElement) => void} act
 * @returns {HTMLElement & {control: HTMLSelectElement}}
 */
export function choice(label, entries, chosen, act) {
  const control = h("select", { class: "ec-select", "aria-label": label || null, onchange: () => act(control.value, control) });
  const known = entries.map((e) => (typeof e === "string" ? { name: e } : e));
  if (chosen === null) control.append(h("option", { value: "", text: "choose …" }));
  for (const e of known) {
    const option = h("option", { value: e.name, text: e.label ?? e.name });
    option.disabled = e.available === false;
    if (e.reason) option.title = e.reason;
    control.append(option);
  }
  if (chosen && !known.some((e) => e.name === chosen)) control.append(h("option", { value: chosen, text: chosen }));
  control.value = chosen ?? "";
  control.dataset.holds = control.value;
  const field = h("label", { class: "ec-field" }, h("span", { text: label }), control);
  return field;
}

/**
 * A labelled number that acts on Enter or when left; a text field, since it must show what was typed when that is wrong.
 * @param {string} label @param {string} shown @param {(value: string, control: HTMLInputElement) => void} act
 * @param {Attributes} [more]
 * @returns {HTMLElement & {control: HTMLInputElement}}
 */
export function entry(label, shown, act, more = {}) {
  const control = h("input", { class: "ec-entry", type: "text", inputmode: "decimal", "aria-label": label, spellcheck: "false", value: shown,
    onchange: () => act(control.value, control), ...more });
  control.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    // A page that is busy drawing may lose the browser's own change event, which Enter would cause.
    event.preventDefault();
    act(control.value, control);
    control.select();
  });
  const field = h("label", { class: "ec-field" }, h("span", { text: label }), control);
  return field;
}

/**
 * @param {string} label @param {boolean} on @param {(on: boolean, control: HTMLInputElement) => void} act
 * @returns {HTMLElement & {control: HTMLInputElement}}
 */
export function tick(label, on, act) {
  const control = h("input", { type: "checkbox", onchange: () => act(control.checked, control) });
  control.checked = on;
  const field = h("label", { class: "ec-field ec-tick" }, control, h("span", { text: label }));
  return field;
}

/**
 * Draws anew what may hold the focus, and gives it back to the control of the same name.
 * @param {HTMLElement} host @param {() => void} draw
 */
export function refocused(host, draw) {
  const { activeElement } = /** @type {Document} */ (host.getRootNode());
  const name = host.contains(activeElement) ? activeElement?.getAttribute("aria-label") : null;
  draw();
  if (!name) return;
  const again = [...host.querySelectorAll("[aria-label]")].find((e) => e.getAttribute("aria-label") === name);
  /** @type {HTMLElement | undefined} */ (again)?.focus({ preventScroll: true });
}

/** Puts children in place of all former ones. @param {Element} element @param {...(Node | null)} children */
export function fill(element, ...children) {
  element.replaceChildren(...children.filter((c) => c !== null));
}
