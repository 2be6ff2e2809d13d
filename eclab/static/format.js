// Numbers as people read them. Nothing here touches the DOM.

const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";
const NOTHING = "—";

/**
 * An integer as superscript digits: -3 gives "⁻³".
 * @param {number} n
 * @returns {string}
 */
export function superscript(n) {
  const digits = String(Math.abs(n)).replace(/\d/g, (d) => SUPERSCRIPTS[Number(d)]);
  return n < 0 ? `⁻${digits}` : digits;
}

/**
 * A measured number with a fixed count of significant digits; × 10ⁿ outside 0.001 … 100,000, "—" when there is none.
 * @param {number | null | undefined} x
 * @param {number} [digits]
 * @returns {string}
 */
export function num(x, digits = 3) {
  if (x === null || x === undefined || Number.isNaN(x)) return NOTHING;
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  if (x === 0) return "0";
  const size = Math.abs(x);
  const sign = x < 0 ? "−" : "";
  if (size >= 1e-3 && size < 1e5) {
    const text = size.toPrecision(digits);
    return sign + (text.includes("e") ? count(Math.round(Number(text))) : text);
  }
  const [mantissa, exponent] = size.toExponential(Math.max(0, Math.min(digits, 3) - 1)).split("e");
  return `${sign}${mantissa}×10${superscript(Number(exponent))}`;
}

/**
 * A number as one types it: 0.1, 0.003, 2e-6, 1e9.
 * @param {number | null | undefined} x
 * @returns {string}
 */
export function typed(x) {
  if (x === null || x === undefined || Number.isNaN(x)) return "";
  const short = Number(x.toPrecision(4));
  const size = Math.abs(short);
  return size === 0 || (size >= 1e-3 && size < 1e5) ? String(short) : short.toExponential().replace("e+", "e");
}

/**
 * A scale: "× 12.6", without trailing zeros.
 * @param {number | null | undefined} c
 * @returns {string}
 */
export function times(c) {
  if (c === null || c === undefined || Number.isNaN(c)) return NOTHING;
  const text = num(c, 3);
  return `× ${/^\d+\.\d*$/.test(text) ? String(Number(text)) : text}`;
}

/**
 * A share as a percentage with two or three significant digits.
 * @param {number | null | undefined} share
 * @param {number} [digits]
 * @returns {string}
 */
export function percent(share, digits = 3) {
  if (share === null || share === undefined || Number.isNaN(share)) return NOTHING;
  const value = share * 100;
  if (value === 0) return "0 %";
  if (Math.abs(value) >= 99.95) return `${Math.round(value)} %`;
  return `${num(value, Math.abs(value) < 1 ? 2 : digits)} %`;
}

/**
 * A whole number with commas; also for integers too long for a float, given as text.
 * @param {number | string | null | undefined} n
 * @returns {string}
 */
export function count(n) {
  if (n === null || n === undefined || n === "") return NOTHING;
  return String(n).replace(/\B(?=(\d{3})+(?!\d))/g, ",").replace(/^-/, "−");
}

/**
 * An exact integer in short form: commas up to 12 digits, then a power of ten.
 * @param {string | number} exact
 * @returns {string}
 */
export function shortCount(exact) {
  const text = String(exact);
  if (text.length <= 12) return count(text);
  const mantissa = Number(`${text[0]}.${text.slice(1, 6)}`).toFixed(2);
  return `${mantissa}×10${superscript(text.length - 1)}`;
}

/**
 * A step or throughput on an axis or in a row: 950, 1.2k, 34k, 5M.
 * @param {number | null | undefined} n
 * @returns {string}
 */
export function brief(n) {
  if (n === null || n === undefined || Number.isNaN(n)) return NOTHING;
  const size = Math.abs(n);
  if (size >= 1e6) return `${Number((n / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${Number((n / 1e3).toPrecision(3))}k`;
  return count(Math.round(n));
}

/**
 * "0.91 → 11.5", or one number when both read the same.
 * @param {number | null | undefined} before
 * @param {number | null | undefined} after
 * @returns {string}
 */
export function change(before, after) {
  const [a, b] = [num(before), num(after)];
  return before === undefined || before === null ? b : `${a} → ${b}`;
}

/**
 * A path value spelled out: "0.83 · −0.41 = −0.34". Long paths keep both ends.
 * @param {number[]} factors
 * @param {number} value
 * @returns {string}
 */
export function product(factors, value) {
  const shown = factors.length > 7 ? [...factors.slice(0, 3), null, ...factors.slice(-3)] : factors;
  return `${shown.map((f) => (f === null ? "…" : num(f))).join(" · ")} = ${num(value)}`;
}

/**
 * What a person typed as a number: accepts a comma, a true minus, "1e-3" and "10^-3"; NaN when it is none.
 * @param {string} text
 * @returns {number}
 */
export function parseNumber(text) {
  const clean = text.trim().replace(",", ".").replace("−", "-").replace(/^×\s*/, "").replace(/^10\^/, "1e");
  return clean === "" ? Number.NaN : Number(clean);
}
