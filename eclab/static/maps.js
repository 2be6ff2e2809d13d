// Decision maps: what each lane says about every point of the plane. The colouring is plain arithmetic.

import { h } from "./dom.js";

/** @typedef {[number, number, number]} Colour */

/**
 * Colours of a map as RGBA. Two classes: from one colour over the ground to the other; more: one hue each, fading with doubt.
 * @param {Uint8Array} bytes as the kernel sends them
 * @param {number} classes
 * @param {Colour[]} hues
 * @param {Colour} ground
 * @returns {Uint8ClampedArray}
 */
export function mapPixels(bytes, classes, hues, ground) {
  const pixels = new Uint8ClampedArray(bytes.length * 4);
  const range = Math.floor(256 / Math.max(classes, 1));
  for (let i = 0; i < bytes.length; i += 1) {
    let [hue, strength] = [hues[0], 0];
    if (classes === 2) {
      hue = bytes[i] >= 128 ? hues[1] : hues[0];
      strength = Math.abs(bytes[i] - 127.5) / 127.5;
    } else {
      hue = hues[Math.min(classes - 1, Math.floor(bytes[i] / range)) % hues.length];
      strength = (bytes[i] % range) / Math.max(range - 1, 1);
    }
    mix(pixels, i * 4, ground, hue, 0.08 + 0.62 * strength);
  }
  return pixels;
}

/**
 * The difference of two maps: the ground where they agree, ink where they do not.
 * @param {Uint8Array} bytes @param {Colour} ink @param {Colour} ground
 * @returns {Uint8ClampedArray}
 */
export function differencePixels(bytes, ink, ground) {
  const pixels = new Uint8ClampedArray(bytes.length * 4);
  for (let i = 0; i < bytes.length; i += 1) mix(pixels, i * 4, ground, ink, bytes[i] / 255);
  return pixels;
}

/** @param {Uint8ClampedArray} pixels @param {number} at @param {Colour} a @param {Colour} b @param {number} share of b */
function mix(pixels, at, a, b, share) {
  for (let k = 0; k < 3; k += 1) pixels[at + k] = a[k] + (b[k] - a[k]) * share;
  pixels[at + 3] = 255;
}

/**
 * "#rgb", "#rrggbb" or "rgb(…)" as numbers; grey for anything else.
 * @param {string} text
 * @returns {Colour}
 */
export function colourOf(text) {
  const hex = /^#([0-9a-f]{3}|[0-9a-f]{6})$/i.exec(text.trim())?.[1];
  if (hex) {
    const long = hex.length === 3 ? [...hex].map((d) => d + d).join("") : hex;
    return /** @type {Colour} */ ([0, 2, 4].map((k) => Number.parseInt(long.slice(k, k + 2), 16)));
  }
  const parts = /^rgba?\(([^)]+)\)/.exec(text.trim())?.[1].split(/[\s,/]+/).map(Number);
  return parts && parts.length >= 3 ? /** @type {Colour} */ (parts.slice(0, 3)) : [128, 128, 128];
}

/** One picture of the plane with its title. */
export class PlaneMap {
  /** @param {string} title */
  constructor(title) {
    this.canvas = h("canvas", { class: "ec-map", role: "img", "aria-label": title });
    this.element = h("figure", { class: "ec-mapbox" }, this.canvas, h("figcaption", { text: title }));
  }

  /**
   * @param {Uint8ClampedArray} pixels @param {number} size
   * @param {{points: Float32Array, extent: number[], hues: Colour[], ground: string}} data
   */
  paint(pixels, size, { points, extent, hues, ground }) {
    const sharp = 240;
    const pen = this.canvas.getContext("2d");
    if (!pen) return;
    if (this.canvas.width !== sharp) this.canvas.width = this.canvas.height = sharp;
    this.buffer ??= document.createElement("canvas");
    if (this.buffer.width !== size) this.buffer.width = this.buffer.height = size;
    this.buffer.getContext("2d")?.putImageData(new ImageData(pixels, size, size), 0, 0);
    pen.imageSmoothingEnabled = true;
    pen.drawImage(this.buffer, 0, 0, sharp, sharp);
    const [left, right, bottom, top] = extent;
    for (let i = 0; i < points.length; i += 3) {
      const x = ((points[i] - left) / (right - left)) * sharp;
      const y = ((top - points[i + 1]) / (top - bottom)) * sharp;
      pen.beginPath();
      pen.arc(x, y, 3.2, 0, 7);
      pen.fillStyle = `rgb(${hues[points[i + 2] % hues.length].join(",")})`;
      pen.fill();
      pen.strokeStyle = ground;
      pen.lineWidth = 1;
      pen.stroke();
    }
  }
}
