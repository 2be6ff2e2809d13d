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

/**
 * The compiled specification as this page shows it: lanes in the page's colours, the axis asked for.
 * @param {any} spec
 * @param {{colours: string[], log: boolean | null, signed: boolean}} how log null: as the specification has it
 * @returns {any}
 */
export function dressedSpec(spec, { colours, log, signed }) {
  const dressed = structuredClone(spec);
  dressed.background = "transparent";
  for (const scale of dressed.scales ?? []) {
    if (scale.name === "color" && colours.length > 0) scale.range = colours;
    if (scale.name !== "y" || log === null) continue;
    const type = log ? (signed ? "symlog" : "log") : "linear";
    if (scale.type === type) continue;
    scale.type = type;
    delete scale.constant;
    if (type === "log") {
      scale.zero = false;
      scale.base = 10;
    }
  }
  return dressed;
}

/**
 * Colours and type of the charts.
 * @param {(name: string) => string} read a custom property of the style sheet
 * @returns {object}
 */
export function vegaConfig(read) {
  const axis = { labelColor: read("--ec-mute"), titleColor: read("--ec-mute"), gridColor: read("--ec-grid"), domainColor: read("--ec-line"),
    tickColor: read("--ec-line"), labelFontSize: 11, titleFontSize: 11, labelFont: read("--ec-font"), titleFont: read("--ec-font"),
    titleFontWeight: "normal" };
  return { background: "transparent", view: { stroke: null }, axis, style: { cell: { stroke: "transparent" } } };
}
