// Vega, fetched once a page from the kernel, never from a network.

const KEY = Symbol.for("eclab.vega");

/**
 * The bundle's `embed`. The first view on the page asks the kernel; the others wait for the same promise.
 * @param {() => Promise<Uint8Array>} fetchBundle
 * @returns {Promise<(element: HTMLElement, spec: object, options: object) => Promise<any>>}
 */
export function vegaEmbed(fetchBundle) {
  globalThis[KEY] ??= fetchBundle().then(async (bytes) => {
    const url = URL.createObjectURL(new Blob([bytes], { type: "text/javascript" }));
    try {
      return (await import(/* @vite-ignore */ url)).embed;
    } finally {
      URL.revokeObjectURL(url);
    }
  });
  // a failed attempt must not be kept: the next view may try again
  globalThis[KEY].catch(() => delete globalThis[KEY]);
  return globalThis[KEY];
}

// the light colours the kernel compiles with, and what this page calls them
const COMPILED = { "#5d646e": "--ec-mute", "#eceff2": "--ec-grid", "#e0e0e0": "--ec-line", "#1f2328": "--ec-ink", "#b3261e": "--ec-trouble" };
const POWERS = ["10⁻⁹", "10⁻⁸", "10⁻⁷", "10⁻⁶", "10⁻⁵", "10⁻⁴", "0.001", "0.01", "0.1", "1", "10", "100", "1000", "10⁴", "10⁵", "10⁶", "10⁷", "10⁸", "10⁹"];
const EXPONENT = "(log(datum.value) / LN10)";
const DECADE = `abs(${EXPONENT} - round(${EXPONENT})) < 1e-6`;
const LEADING = `round(datum.value / pow(10, floor(${EXPONENT} + 1e-9)))`;
const SPAN = "log(domain('y')[1] / domain('y')[0]) / LN10";
const HIDDEN = `(${SPAN} > 2.3 || (${SPAN} > 0.8 && indexof([2, 5], ${LEADING}) < 0))`;

/**
 * The compiled specification as this page shows it: lanes and axes in the page's colours, the axis asked for.
 * @param {any} spec
 * @param {{lanes: {label: string, place: number, colour: string}[], log: boolean | null, read: (name: string) => string}} how log null: as the specification has it
 * @returns {any}
 */
export function dressedSpec(spec, { lanes, log, read }) {
  const text = JSON.stringify(spec).replace(/#[0-9a-f]{6}/g, (hex) => (COMPILED[hex] ? read(COMPILED[hex]) : hex));
  const dressed = JSON.parse(text);
  dressed.background = "transparent";
  dressed.padding = { left: 2, right: 8, top: 5, bottom: 2 };
  const y = (dressed.scales ?? []).find((s) => s.name === "y");
  if (y && log !== null) retype(y, log);
  for (const scale of dressed.scales ?? []) if (lanes.length > 0) giveToLanes(scale, lanes);
  for (const axis of dressed.axes ?? []) dressAxis(axis, y?.type ?? "linear");
  return dressed;
}

/** The kernel compiles a place for every colour a lane may have; here the race's own lanes take theirs. */
function giveToLanes(scale, lanes) {
  if (scale.name !== "color" && scale.name !== "strokeDash") return;
  const { range } = scale;
  scale.domain = lanes.map((l) => l.label);
  scale.range = lanes.map((l) => (scale.name === "color" ? l.colour : range[l.place]));
}

/** @param {any} scale @param {boolean} log */
function retype(scale, log) {
  scale.type = log ? "log" : "linear";
  delete scale.constant;
  delete scale.base;
  if (log) scale.zero = false;
}

/** Fixed room for labels, so that nothing jumps while numbers grow; powers of ten on logarithmic axes. @param {any} axis @param {string} type */
function dressAxis(axis, type) {
  if (axis.labels !== false) axis.minExtent = axis.maxExtent = axis.scale === "y" ? 38 : 16;
  if (axis.scale === "x") {
    Object.assign(axis, { labelFlush: 20, labelOverlap: "greedy", labelSeparation: 12 });
    if (axis.labels !== false) axis.encode = labelsFrom("datum.value === 0 ? '0' : format(datum.value, '~s')");
  }
  if (axis.scale !== "y" || type === "linear") return;
  if (type === "symlog") {
    const largest = "max(abs(domain('y')[0]), abs(domain('y')[1]))";
    const both = (decades) => JSON.stringify([...decades.map((d) => -d).reverse(), 0, ...decades]);
    axis.values = { signal: `${largest} > 2e3 ? ${both([10, 1e3, 1e5, 1e7, 1e9])} : ${largest} > 20 ? ${both([1, 10, 100, 1e3])} : null` };
    if (axis.labels !== false) axis.encode = labelsFrom("format(datum.value, abs(datum.value) >= 1000 ? '~s' : '~g')");
    return;
  }
  const labels = `${DECADE} ? ${JSON.stringify(POWERS)}[round(${EXPONENT}) + 9] : ${HIDDEN} ? '' : format(datum.value, '~g')`;
  if (axis.labels !== false) axis.encode = labelsFrom(labels);
  if (axis.grid) axis.encode = { ...axis.encode, grid: { update: { opacity: { signal: `${DECADE} || !${HIDDEN} ? 1 : 0` } } } };
}

/** @param {string} signal @returns {object} */
function labelsFrom(signal) {
  return { labels: { update: { text: { signal } } } };
}

/**
 * Colours and type of the charts.
 * @param {(name: string) => string} read a custom property of the style sheet
 * @returns {object}
 */
export function vegaConfig(read) {
  const font = read("--ec-font");
  const guide = { font, fill: read("--ec-mute") };
  return { background: "transparent", axis: { labelFont: font, titleFont: font }, style: { cell: { stroke: "transparent" }, "guide-label": guide } };
}
