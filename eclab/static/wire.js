// Messages to and from the kernel: numbering, answers, binary buffers.

/** @typedef {{cmd: string, id: string, [key: string]: any}} Command */

let views = 0;

/**
 * The typed array in one of a message's buffers. Copies, since a buffer may start anywhere in memory.
 * @template {Float64Array | Float32Array | Uint8Array} T
 * @param {DataView | ArrayBuffer | undefined} buffer
 * @param {{new (data: ArrayBuffer): T}} Kind
 * @returns {T}
 */
export function numbers(buffer, Kind) {
  if (!buffer) return new Kind(new ArrayBuffer(0));
  if (buffer instanceof ArrayBuffer) return new Kind(buffer.slice(0));
  const { byteOffset, byteLength } = buffer;
  return new Kind(/** @type {ArrayBuffer} */ (buffer.buffer.slice(byteOffset, byteOffset + byteLength)));
}

/**
 * One view's line to the kernel. Several views of one widget share the model, so ids carry the view's number.
 */
export class Wire {
  /** @param {any} model of anywidget */
  constructor(model) {
    views += 1;
    this.model = model;
    this.prefix = `${views}-${Math.random().toString(36).slice(2, 7)}`;
    this.sent = 0;
    /** @type {Map<string, Element>} the control that sent a command, for messages in place */
    this.controls = new Map();
    /** @type {((control: Element) => void) | null} told when a control is used again */
    this.used = null;
    /** @type {Map<string, (content: any, buffers: any[]) => void>} */
    this.handlers = new Map();
    this.receive = (content, buffers) => this.handlers.get(content?.type)?.(content, buffers ?? []);
    model.on("msg:custom", this.receive);
    /** @type {(() => void) | null} */
    this.settled = null;
    model.on("change:settings", (this.changed = () => this.settled?.()));
    /** @type {(() => void) | null} told when the kernel no longer knows this lab */
    this.lost = null;
    model.on("comm_live_update", (this.left = () => this.lost?.()));
  }

  /**
   * @param {string} cmd
   * @param {object} [payload]
   * @param {Element | null} [control] where an error about this command is shown
   * @returns {string} the command's id
   */
  send(cmd, payload = {}, control = null) {
    this.sent += 1;
    const id = `${this.prefix}:${this.sent}`;
    if (control) {
      this.used?.(control);
      this.controls.set(id, control);
      if (this.controls.size > 200) this.controls.delete(this.controls.keys().next().value);
    }
    try {
      this.model.send({ cmd, id, ...payload });
    } catch {
      // a restarted kernel has taken its end of the line away
      this.lost?.();
    }
    return id;
  }

  /** @param {string} type @param {(content: any, buffers: any[]) => void} handler */
  on(type, handler) {
    this.handlers.set(type, handler);
  }

  /** Whether an answer is for this view. @param {string | undefined} id */
  mine(id) {
    return !id || String(id).startsWith(`${this.prefix}:`);
  }

  close() {
    this.model.off("msg:custom", this.receive);
    this.model.off("change:settings", this.changed);
    this.model.off("comm_live_update", this.left);
    this.handlers.clear();
    this.controls.clear();
  }
}

/**
 * At most one call every `pause` milliseconds; the last one always comes through.
 * @template {any[]} A
 * @param {number} pause
 * @param {(...args: A) => void} act
 * @returns {((...args: A) => void) & {flush: () => void, cancel: () => void}}
 */
export function paced(pause, act) {
  /** @type {A | null} */
  let waiting = null;
  let timer = 0;
  const run = () => {
    timer = 0;
    if (!waiting) return;
    const args = waiting;
    waiting = null;
    timer = setTimeout(run, pause);
    act(...args);
  };
  const call = (...args) => {
    waiting = args;
    if (!timer) run();
  };
  call.flush = () => {
    clearTimeout(timer);
    run();
  };
  call.cancel = () => {
    clearTimeout(timer);
    [timer, waiting] = [0, null];
  };
  return call;
}
