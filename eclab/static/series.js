// The race's records as they arrive, and the curves drawn from them. No DOM.

const FIELDS = ["step", "loss", "train_acc", "test_acc", "grad_norm", "gauge_drift", "ms_forward_backward",
  "ms_step", "guarded"];

/**
 * Growing columns, one set per lane.
 */
export class Curves {
  constructor() {
    this.clear(0);
  }

  /** @param {number} run */
  clear(run) {
    this.run = run;
    this.count = 0; // records of all lanes received so far
    /** @type {Map<number, {n: number, columns: Record<string, Float64Array>}>} */
    this.lanes = new Map();
    this.version = (this.version ?? 0) + 1;
  }

  /**
   * Take rows that begin at record `from`. Rows already known are skipped.
   * @param {string[]} names of the columns, "lane" among them
   * @param {Float64Array} data row-major
   * @param {number} from
   * @returns {boolean} false when records are missing in between: ask for the history
   */
  append(names, data, from) {
    if (names.length === 0) return true;
    const rows = data.length / names.length;
    if (from > this.count) return false;
    for (let r = Math.max(0, this.count - from); r < rows; r += 1) this.#push(names, data, r * names.length);
    this.count = Math.max(this.count, from + rows);
    this.version += 1;
    return true;
  }

  /**
   * Replace everything by a history that stands for `next` records.
   * @param {string[]} names
   * @param {Float64Array} data
   * @param {number} next
   * @param {number} run
   */
  replace(names, data, next, run) {
    this.clear(run);
    if (names.length > 0) for (let at = 0; at < data.length; at += names.length) this.#push(names, data, at);
    this.count = next;
  }

  /** @param {string[]} names @param {Float64Array} data @param {number} at */
  #push(names, data, at) {
    const lane = data[at + names.indexOf("lane")];
    let store = this.lanes.get(lane);
    if (!store) {
      store = { n: 0, columns: Object.fromEntries(FIELDS.map((f) => [f, new Float64Array(256)])) };
      this.lanes.set(lane, store);
    }
    if (store.n === store.columns.step.length) {
      for (const f of FIELDS) {
        const longer = new Float64Array(store.n * 2);
        longer.set(store.columns[f]);
        store.columns[f] = longer;
      }
    }
    for (const f of FIELDS) {
      const k = names.indexOf(f);
      store.columns[f][store.n] = k < 0 ? Number.NaN : data[at + k];
    }
    store.n += 1;
  }

  /**
   * The finite points of one curve.
   * @param {number} lane
   * @param {string} field
   * @returns {{steps: Float64Array, values: Float64Array}}
   */
  points(lane, field) {
    const store = this.lanes.get(lane);
    if (!store || !store.columns[field]) return { steps: new Float64Array(), values: new Float64Array() };
    const [steps, values] = [new Float64Array(store.n), new Float64Array(store.n)];
    let n = 0;
    for (let i = 0; i < store.n; i += 1) {
      const value = store.columns[field][i];
      if (!Number.isFinite(value)) continue;
      steps[n] = store.columns.step[i];
      values[n] = value;
      n += 1;
    }
    return { steps: steps.subarray(0, n), values: values.subarray(0, n) };
  }
}

/**
 * Between what values a chart is drawn. A lane that explodes leaves at the top instead of pressing all others flat:
 * beyond a hundred times what nearly all values keep to, points sit on the edge.
 * @param {ArrayLike<number>[]} curves
 * @returns {[number, number]}
 */
export function bounds(curves) {
  const sample = [];
  for (const values of curves) {
    const stride = Math.max(1, Math.floor(values.length / 400));
    for (let i = 0; i < values.length; i += stride) sample.push(Math.abs(values[i]));
  }
  if (sample.length < 20) return [-Infinity, Infinity];
  sample.sort((a, b) => a - b);
  const usual = sample[Math.floor((sample.length - 1) * 0.9)];
  return usual > 0 ? [-100 * usual, 100 * usual] : [-Infinity, Infinity];
}

/**
 * Exponential moving average without the bias of its start.
 * @param {ArrayLike<number>} values
 * @param {number} weight 0 (raw) … <1
 * @returns {Float64Array}
 */
export function smoothed(values, weight) {
  const out = new Float64Array(values.length);
  let [sum, mass] = [0, 0];
  for (let i = 0; i < values.length; i += 1) {
    sum = sum * weight + values[i] * (1 - weight);
    mass = mass * weight + (1 - weight);
    out[i] = sum / mass;
  }
  return out;
}

/**
 * The moving average's weight for a curve of n points: the slider's value for 500 points, and the same share of the
 * curve for any other length, so that a long run is not left as noise nor a short one flattened.
 * @param {number} slider 0 … <1
 * @param {number} n
 * @returns {number}
 */
export function smoothingFor(slider, n) {
  const points = (slider / (1 - slider)) * (n / 500);
  return points / (1 + points);
}

/**
 * Indices of at most about `limit` points that keep every visible peak: first, lowest, highest and last of each bucket.
 * @param {ArrayLike<number>} values
 * @param {number} limit
 * @returns {number[]}
 */
export function thinned(values, limit) {
  const n = values.length;
  if (n <= limit) return Array.from({ length: n }, (_, i) => i);
  const buckets = Math.max(1, Math.floor(limit / 2) - 1);
  const kept = new Set([0, n - 1]);
  for (let b = 0; b < buckets; b += 1) {
    const [start, end] = [Math.floor((b * n) / buckets), Math.floor(((b + 1) * n) / buckets)];
    let [low, high] = [start, start];
    for (let i = start; i < end; i += 1) {
      if (values[i] < values[low]) low = i;
      if (values[i] > values[high]) high = i;
    }
    kept.add(low).add(high);
  }
  return [...kept].sort((a, b) => a - b);
}

/**
 * Index of the value nearest to x in ascending values; -1 when there are none.
 * @param {ArrayLike<number>} ascending
 * @param {number} x
 * @returns {number}
 */
export function nearest(ascending, x) {
  let [low, high] = [0, ascending.length - 1];
  if (high < 0) return -1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (ascending[middle] <= x) low = middle;
    else high = middle;
  }
  return Math.abs(ascending[high] - x) < Math.abs(ascending[low] - x) ? high : low;
}
