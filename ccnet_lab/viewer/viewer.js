// The living map: criss-cross attention that follows the pointer, in the app, in a notebook and in a page of its own.
// A host gives a model with get, set, save_changes and on, and where it can off and exact; payload.py makes the data,
// viewer.css the looks. K classes, H W image, h w feature cells, R recurrences; cell i * w + j lies in row i, column j.

/** @typedef {{table?: Float32Array, query?: Float32Array, key?: Float32Array}} Step (hw, h + w), (hw, d) */
/** @typedef {{cells: number[], name: string, cell?: any, x?: any, y?: any}} Subject of maps */

// ---- Reading the payload: a header in JSON, then arrays ----

const DAMAGED = "the view's data is damaged or cut short; save or make it again";
const TYPES = { float16: Uint16Array, float32: Float32Array, uint8: Uint8Array };

/** The values of float16 numbers over `scaled`, looked up by their bits. @param {Uint16Array} bits */
function fromHalves(bits, scaled) {
  const table = new Float32Array(1 << 16), values = new Float32Array(bits.length);
  for (let half = 0; half < table.length; half++) {
    const exponent = (half >> 10) & 31, fraction = (half & 1023) / 1024, sign = half & 0x8000 ? -1 : 1;
    const size = exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction;
    table[half] = exponent === 31 ? NaN : (sign * size) / scaled;
  }
  for (let n = 0; n < bits.length; n++) values[n] = table[bits[n]];
  return values;
}

/** Whether all values are finite. */
function finite(values) {
  for (let n = 0; n < values.length; n++) if (values[n] - values[n] !== 0) return false;
  return true;
}

/** The bytes of a payload from an address, a DataView or an array, unpacked if they are gzipped. */
async function fetched(source) {
  if (typeof source === "string") {
    const answer = await fetch(source);
    if (!answer.ok) throw new Error(`the view is no longer on the server (${answer.status}); load the page again`);
    source = await answer.arrayBuffer();
  }
  if (!source?.byteLength) throw new Error("the view is empty; make it again with view.widget() or view.save_html()");
  const data = new Uint8Array(source.buffer ?? source, source.byteOffset ?? 0, source.byteLength);
  if (data[0] !== 0x1f || data[1] !== 0x8b) return data;
  if (typeof DecompressionStream === "undefined")
    throw new Error("this browser has no DecompressionStream to unpack the view; open it in one from 2023 or later");
  const unpacked = new Response(new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip")));
  return new Uint8Array(await unpacked.arrayBuffer().catch(() => { throw new Error(DAMAGED); }));
}

/** The header and the arrays by name; float16 becomes Float32Array. @param {Uint8Array} bytes */
function decoded(bytes) {
  const data = bytes.slice().buffer; // a copy, since arrays must be aligned
  const text = (from, to) => new TextDecoder().decode(bytes.subarray(from, to));
  if (text(0, 4) !== "CCNV" || data.byteLength < 8) throw new Error(DAMAGED);
  const begin = 8 + new DataView(data).getUint32(4, true), arrays = /** @type {any} */ ({});
  let header;
  try { header = JSON.parse(text(8, begin)); } catch { throw new Error(DAMAGED); }
  for (const [name, { dtype, shape, offset }] of Object.entries(header.arrays)) {
    const size = shape.reduce((product, side) => product * side, 1);
    if (begin + offset + size * TYPES[dtype].BYTES_PER_ELEMENT > data.byteLength) throw new Error(DAMAGED);
    const scaled = name.startsWith("attention") ? header.scaled : 1;
    let values = new TYPES[dtype](data, begin + offset, size);
    if (dtype === "float16") values = fromHalves(values, scaled);
    else if (scaled !== 1) values = values.map(weight => weight / scaled);
    if (dtype !== "uint8" && !finite(values))
      throw new Error(`the view's array ${name} holds NaN or infinity; look at the picture again with finite weights`);
    arrays[name] = values;
  }
  return { header, arrays };
}

// ---- Computing: no DOM; the same answers as explore/maps.py ----

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
// Loops, which a browser computes in a tenth of the time of reduce.
function total(values) {
  let sum = 0;
  for (let n = 0; n < values.length; n++) sum += values[n];
  return sum;
}

function largest(values) {
  let top = values[0];
  for (let n = 1; n < values.length; n++) if (values[n] > top) top = values[n];
  return top;
}

/** Add `share` times some values to `out`; four at a time, which takes half the time. */
function add(out, at, count, values, from, share) {
  const end = at + count;
  for (; at + 3 < end; at += 4, from += 4) {
    out[at] += share * values[from]; out[at + 1] += share * values[from + 1];
    out[at + 2] += share * values[from + 2]; out[at + 3] += share * values[from + 3];
  }
  for (; at < end; at++, from++) out[at] += share * values[from];
}

/** As `add` for four runs of values, `step` apart, with weights `apart` from each other: one write for four. */
function addFour(out, at, count, values, from, step, weights, first, apart) {
  const a = weights[first], b = weights[first + apart], c = weights[first + 2 * apart], d = weights[first + 3 * apart];
  if (!a && !b && !c && !d) return;
  for (const end = at + count; at < end; at++, from++)
    out[at] += a * values[from] + b * values[from + step] + c * values[from + 2 * step] + d * values[from + 3 * step];
}

/** The sum of `count` products; of the first array each number at a distance of `stride`. */
function dot(left, at, stride, right, from, count) {
  let sum = 0;
  for (let n = 0; n < count; n++, at += stride) sum += left[at] * right[from + n];
  return sum;
}

/** The softmax of some scores, in their place. @param {Float64Array} scores */
function softmax(scores) {
  const top = largest(scores);
  for (let n = 0; n < scores.length; n++) scores[n] = Math.exp(scores[n] - top);
  const sum = total(scores);
  for (let n = 0; n < scores.length; n++) scores[n] /= sum;
  return scores;
}

/** (K,) class probabilities at pixel (x, y): logits (K, h, w), upsampled bilinearly to H x W. */
function probabilities(logits, classes, [h, w], [height, width], x, y) {
  const neighbours = (at, cells, pixels) => {
    const place = Math.max(((at + 0.5) * cells) / pixels - 0.5, 0), low = Math.min(Math.floor(place), cells - 1);
    return [low, Math.min(low + 1, cells - 1), place - low];
  };
  const [top, bottom, v] = neighbours(y, h, height), [left, right, u] = neighbours(x, w, width);
  return softmax(new Float64Array(classes).map((_, k) => {
    const along = i => (1 - u) * logits[(k * h + i) * w + left] + u * logits[(k * h + i) * w + right];
    return (1 - v) * along(top) + v * along(bottom);
  }));
}

/** The attention of a picture's cells, composed over recurrences; a map has one number for each cell. */
class Maps {
  /** @param {number} h @param {number} w @param {Step[]} steps first step first @param {Uint8Array} labels of cells */
  constructor(h, w, steps, labels, classes) {
    this.h = h; this.w = w; this.steps = steps; this.labels = labels;
    this.cells = Array.from({ length: classes }, () => /** @type {number[]} */ ([])); // of each class
    labels.forEach((k, cell) => this.cells[k].push(cell));
    this.scratch = new Float64Array(h + w);
    this.start = 0; // where the row that `row` returned begins
  }

  /** Whether the map of so many cells can be had within a frame: without tables, only of one, near its cross. */
  quick(recurrence, kind, count) {
    return !!this.steps[0].table || (count === 1 && recurrence <= (kind === "listeners" ? 1 : 2));
  }

  /** The attention of a cell over its cross, from `this.start` in the array: h column entries, then w row entries. */
  row(step, cell) {
    const { h, w, scratch } = this, { table, query, key } = this.steps[step];
    this.start = table ? cell * (h + w) : 0;
    if (table) return table;
    const depth = query.length / (h * w), i = Math.floor(cell / w), j = cell % w;
    for (let n = 0; n < h + w; n++) {
      const other = n < h ? n * w + j : i * w + n - h;
      scratch[n] = n === i ? -Infinity : dot(query, cell * depth, 1, key, other * depth, depth); // itself once
    }
    return softmax(scratch);
  }

  /** The row vector `weights` times a step's attention. @param {Float64Array} weights */
  pulled(weights, step) {
    const { h, w } = this, across = new Float64Array(h * w), down = new Float64Array(h * w); // down is transposed
    const { table } = this.steps[step], most = table ? 4 : 1, n = h + w;
    for (let top = 0; top < h; top += most)
      for (let left = 0; left < w; left += most) {
        const bottom = Math.min(top + most, h), right = Math.min(left + most, w), whole = most === 4;
        const rows = whole && right - left === 4, columns = whole && bottom - top === 4;
        // Four cells of a row add to one row, four of a column to one column.
        for (let i = top, cell = top * w + left; rows && i < bottom; i++, cell += w)
          addFour(across, i * w, w, table, cell * n + h, n, weights, cell, 1);
        for (let j = left, cell = top * w + left; columns && j < right; j++, cell++)
          addFour(down, j * h, h, table, cell * n, w * n, weights, cell, w);
        for (let i = top; (!rows || !columns) && i < bottom; i++)
          for (let j = left, cell = i * w + left; j < right; j++, cell++) {
            if (!weights[cell]) continue;
            const row = this.row(step, cell);
            if (!columns) add(down, j * h, h, row, this.start, weights[cell]);
            if (!rows) add(across, i * w, w, row, this.start + h, weights[cell]);
          }
      }
    for (let i = 0; i < h; i++) for (let j = 0; j < w; j++) across[i * w + j] += down[j * h + i];
    return across;
  }

  /** A step's attention times the column vector `weights`. @param {Float64Array} weights */
  gathered(weights, step) {
    const { h, w } = this, out = new Float64Array(h * w);
    const rows = new Uint8Array(h), columns = new Uint8Array(w); // where there is anything to gather
    weights.forEach((weight, cell) => { if (weight) rows[Math.floor(cell / w)] = columns[cell % w] = 1; });
    for (let i = 0, cell = 0; i < h; i++)
      for (let j = 0; j < w; j++, cell++) {
        if (!rows[i] && !columns[j]) continue;
        const row = this.row(step, cell);
        if (columns[j]) out[cell] += dot(weights, j, w, row, this.start, h);
        if (rows[i]) out[cell] += dot(weights, i * w, 1, row, this.start + h, w);
      }
    return out;
  }

  /** The mean map of some cells for each R: what they look at, or who listens to them. @param {number[]} cells */
  of(cells, recurrences, kind) {
    const even = new Float64Array(this.h * this.w), steps = [...this.steps.keys()];
    for (const cell of cells) even[cell] = 1 / cells.length;
    if (kind === "attention")
      return recurrences.map(r => steps.slice(0, r).reduceRight((weights, step) => this.pulled(weights, step), even));
    const heard = [even]; // of R = 0, 1, ...
    for (const step of steps.slice(0, Math.max(...recurrences))) heard.push(this.gathered(heard[step], step));
    return recurrences.map(r => heard[r]);
  }

  /** The share of a map's mass by class, and what features that are the same everywhere would give these cells. */
  shares(weights, cells, recurrence) {
    const { h, w, labels } = this, mass = new Float64Array(this.cells.length), chance = new Float64Array(mass);
    const sum = total(weights) || 1, cross = h + w - 1, even = 1 / (cells.length * cross ** recurrence);
    for (let cell = 0; cell < weights.length; cell++) mass[labels[cell]] += weights[cell] / sum;
    let own = 1, row = 0, column = 0, all = 0; // powers of the uniform attention, as in maps.uniform_map
    for (let step = 0; step < recurrence; step++)
      [own, row, column, all] = [-own, own + (w - 1) * row, own + (h - 1) * column, row + column + cross * all];
    for (const cell of cells) {
      chance[labels[cell]] += even * own;
      for (let j = 0; j < w; j++) chance[labels[cell - (cell % w) + j]] += even * row;
      for (let i = 0; i < h; i++) chance[labels[i * w + (cell % w)]] += even * column;
    }
    return { mass, chance: chance.map((value, k) => value + even * all * cells.length * this.cells[k].length) };
  }

  /** The share of a map's mass in row i and column j. */
  onCross(weights, [i, j]) {
    let cross = -weights[i * this.w + j];
    for (let n = 0; n < this.h; n++) cross += weights[n * this.w + j];
    for (let n = 0; n < this.w; n++) cross += weights[i * this.w + n];
    return cross / (total(weights) || 1);
  }
}

// ---- The page: static HTML, and small helpers; what a payload holds goes in as text only ----

const HELP = "move: the map follows · click: pin · Shift+click: compare · Esc: free · arrows: a cell · 1 2 3: R"
  + " · L: one large · + −: zoom";
const PAGE = `<div class="ccnet-viewer" data-ccnet-viewer>
  <p class="ccnet-title" data-part="title"></p>
  <div class="ccnet-main"><div class="ccnet-left">
    <div class="ccnet-frame ccnet-stage" data-part="stage" tabindex="0" role="application"><div class="ccnet-layers">
      <img data-part="picture" draggable="false">
      <canvas class="ccnet-labels" data-part="labels"></canvas><canvas class="ccnet-lit" data-part="lit"></canvas>
      <div class="ccnet-cell" data-part="cell"></div><div class="ccnet-rectangle" data-part="rectangle"></div>
      <div class="ccnet-point" data-part="point"></div><div class="ccnet-point ccnet-second" data-part="second"></div>
    </div></div>
    <div class="ccnet-legend" data-part="legend"></div>
  </div><div class="ccnet-right" data-part="right">
    <div class="ccnet-row"><p class="ccnet-name"></p></div>
    <div class="ccnet-row"><p class="ccnet-name"></p></div>
    <div class="ccnet-scale">
      <i data-part="low"></i><canvas data-part="gradient"></canvas><i data-part="high"></i><span data-part="cut"></span>
    </div>
    <div class="ccnet-controls"><div class="ccnet-choice" role="group" aria-label="direction">
      <button data-set="kind" data-value="attention" title="what the pixel looks at">looks at</button>
      <button data-set="kind" data-value="listeners" title="how much others take from it">who listens</button>
    </div><div class="ccnet-choice" role="group" aria-label="colour scale">
      <button data-set="scale" data-value="raw" title="from 0 to the peak">raw</button>
      <button data-set="scale" data-value="clipped" title="the scale ends where the slider says">clipped</button>
      <button data-set="scale" data-value="log" title="four powers of ten below the peak">log</button>
    </div><div class="ccnet-choice" role="group" aria-label="of what">
      <button data-set="mode" data-value="pixel" title="one pixel">pixel</button>
      <button data-set="mode" data-value="region" title="drag a rectangle: the mean of its cells">region</button>
      <button data-set="mode" data-value="class" title="click a class: the mean of all its cells">class</button>
    </div></div>
    <div class="ccnet-controls">
      <label class="ccnet-slider" data-slider="labels">labels <input name="labels"></label>
      <label class="ccnet-slider" data-slider="photo">photo under maps <input name="photo"></label>
      <label class="ccnet-slider" data-slider="clip">clip <input name="clip" data-part="clip"></label>
    </div>
    <div class="ccnet-facts"><section data-part="likely"></section><section data-part="looks"></section></div>
  </div></div>
  <details class="ccnet-matrix" data-part="matrix">
    <summary>Class by class: where each class looks</summary><div data-part="table"></div>
  </details>
  <div class="ccnet-actions">
    <button data-act="copy" title="everything shown, as JSON">Copy numbers</button>
    <button data-act="png" title="save what is shown">PNG</button>
    <button data-act="svg" title="save with text as text">SVG</button>
    <button data-act="compare" title="a second pixel beside the first; again to end it">Compare</button>
    <button data-act="large" title="one map large">Large</button>
    <button data-act="free" title="let the pixel follow the pointer again">Free</button>
    <button data-act="farther" title="zoom out">−</button>
    <button data-act="closer" title="zoom in; Shift and drag moves">+</button>
    <span data-part="said" role="status"></span>
  </div>
  <p class="ccnet-help">${HELP}</p><div class="ccnet-hidden" data-part="live" role="status" aria-live="polite"></div>
</div>`;
const FIGURE = `<figure>
  <div class="ccnet-frame ccnet-map" data-part="frame"><div class="ccnet-layers">
    <img alt="" draggable="false"><canvas class="ccnet-heat" data-part="canvas" role="img"></canvas>
    <div class="ccnet-cell" data-part="cell"></div>
  </div><p class="ccnet-wait" data-part="wait"></p></div>
  <figcaption><button data-part="caption" data-set="recurrence" title="show the facts for this R"></button>
    <em data-part="value"></em><span data-part="note"></span></figcaption>
</figure>`;
const BAR = `<div class="ccnet-bar"><u></u><span></span><b><s></s><q></q></b><i></i><em></em></div>`;
const CHIP = `<button title="click: the mean map of its cells"><u></u><span></span><i></i></button>`;

const SHARED = ["x", "y", "recurrence", "clip", "labels", "photo"]; // what a host may read and set
const FREE = { pinned: false, second: null, placing: false, region: null, mode: "pixel", large: false };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const ZOOMS = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, 0: 1e-9 };

const percent = share => `${(100 * share).toFixed(share >= 0.0995 || share === 0 ? 0 : 1)} %`;
const short = value => (value === 0 || value >= 0.001 ? String(+value.toPrecision(2)) : value.toExponential(0));
const escaped = text => String(text).replace(/[&<>"']/g, sign => `&#${sign.charCodeAt(0)};`);
const worded = (name, textContent) => Object.assign(document.createElement(name), { textContent });

/** The lesser and the greater of each coordinate of two places. */
const between = (a, b) => a.map((value, n) => [Math.min(value, b[n]), Math.max(value, b[n])]);

/** The numbers of the largest shares, the largest first; not of those too small to be seen. @returns {number[]} */
const leading = (shares, most = 4, least = 0.005) =>
  [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, most).filter(k => shares[k] >= least);

/** An element of HTML from this file as `root`, and what is in it by data-part. @returns {Record<string, any>} */
function made(html) {
  const template = Object.assign(document.createElement("template"), { innerHTML: html });
  const root = document.importNode(template.content, true).firstElementChild;
  for (const button of root.querySelectorAll("button")) button.type = "button";
  for (const input of root.querySelectorAll("input")) Object.assign(input, { type: "range", max: 1, step: 0.01 });
  const parts = /** @type {HTMLElement[]} */ ([...root.querySelectorAll("[data-part]")]);
  return { root, ...Object.fromEntries(parts.map(part => [part.dataset.part, part])) };
}

/** Place an element in its frame, by shares of the frame's sides. */
function place(element, sides) {
  for (const [side, share] of Object.entries(sides)) element.style[side] = `${100 * share}%`;
}

/** Colours of red, green, blue and opacity, 0..255, as `paint` takes them. @param {number[][]} colours */
const packed = colours => new Uint32Array(new Uint8Array(colours.flat()).buffer);

/** Paint a canvas: for each pixel the number of its colour. @param {Uint32Array} colours */
function paint(canvas, [height, width], numbers, colours) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let n = 0; n < pixels.length; n++) pixels[n] = colours[numbers[n]];
  context.putImageData(image, 0, 0);
}

/** A picture in another size on a canvas of its own. @returns {HTMLCanvasElement} */
function resized(picture, width, height, smooth) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height }), context = canvas.getContext("2d");
  context.imageSmoothingEnabled = smooth;
  context.drawImage(picture, 0, 0, width, height);
  return canvas;
}

/** An element of an SVG as text. */
function tag(name, attributes, text = "") {
  const listed = Object.entries(attributes).map(([key, value]) => ` ${key}="${escaped(value)}"`).join("");
  return `<${name}${listed}>${escaped(text)}</${name}>`;
}

/** Offer a file for saving. @param {Blob} blob @param {string} download its name */
function save(blob, download) {
  const href = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href, download }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
}

// ---- The viewer ----

/** Show a payload in `el`; `kept` is what stays of the state before. Returns what `render` needs of it. */
function view(el, model, { header, arrays }, kept) {
  const [height, width] = header.size, [h, w] = header.grid, { classes, palette, recurrences } = header;
  const names = arrays.marked ? [...classes, header.marked] : classes; // of the cells' labels
  const steps = Array.from({ length: Math.max(...recurrences) }, (_, n) =>
    ({ table: arrays[`attention${n + 1}`], query: arrays[`query${n + 1}`], key: arrays[`key${n + 1}`] }));
  const maps = new Maps(h, w, steps, arrays.cell_labels, names.length);
  const state = {
    mode: "pixel", second: null, placing: false, region: null, large: false, zoom: 1, centre: [0.5, 0.5],
    kind: model.get("kind") ?? header.kind, scale: model.get("scale") ?? header.scale, ...kept,
    pinned: !!(model.get("pinned") ?? header.pinned),
    ...Object.fromEntries(SHARED.map(name => [name, allowed(name, model.get(name) ?? header[name])])),
  };
  const answers = new Map(); // the server's: maps, or sentences, by what was asked
  let shown, sharing, speaking, closed = false, milliseconds = 0; // from the pointer's last move to its maps
  /** A value that a host sets, within what this picture has. */
  function allowed(name, value) {
    if (name === "recurrence") return recurrences.includes(value) ? value : header.recurrence;
    return name === "x" || name === "y" ? clamp(Math.round(value), 0, (name === "x" ? width : height) - 1) : value;
  }

  // -- What is asked --

  /** @returns {Subject} */
  function pixel({ x, y }) {
    const among = (at, cells, pixels) => Math.min(Math.floor(((at + 0.5) * cells) / pixels), cells - 1);
    const i = among(y, h, height), j = among(x, w, width);
    return { cells: [i * w + j], name: `pixel (${x}, ${y})`, cell: [i, j], x, y };
  }
  /** The class, region or pixel that the maps are of. @returns {Subject} */
  function subject() {
    const { mode, region } = state, same = mode === "class" && maps.cells[region?.k], cells = [];
    const many = same?.length ? `all ${same.length} cells` : "no cell";
    if (same) return { cells: same, name: `${many} of ${names[region.k]}` };
    if (mode !== "region" || !region?.from) return pixel(state);
    const [from, to] = [region.from, region.to].map(([x, y]) => pixel({ x, y }).cell);
    const [[top, bottom], [left, right]] = between(from, to);
    for (let i = top; i <= bottom; i++) for (let j = left; j <= right; j++) cells.push(i * w + j);
    return { cells, name: `a region of ${right - left + 1} × ${bottom - top + 1} cells` };
  }
  /** For each R a subject's map, or a sentence where there is none. @param {Subject} subject */
  function mapsOf(subject) {
    const none = `${subject.name}: the class is nowhere the largest in a cell`;
    if (!subject.cells.length) return recurrences.map(() => none);
    const quick = recurrences.filter(r => maps.quick(r, state.kind, subject.cells.length));
    const found = quick.length ? maps.of(subject.cells, quick, state.kind) : [];
    return recurrences.map(r => found[quick.indexOf(r)] ?? exact(subject, r));
  }
  /** A map that only the server can compute, or a sentence. @param {Subject} subject */
  function exact({ cell, x, y }, r) {
    if (!cell || !model.exact) return "too large for this page";
    if (!state.pinned) return "pin a pixel for this map";
    const asked = [x, y, r, state.kind].join();
    if (!answers.has(asked)) {
      const { kind } = state, shows = at => at?.x === x && at.y === y && state.kind === kind;
      answers.set(asked, "computing …");
      setTimeout(async () => { // the pixel may only be on its way
        if (closed || !(shows(state) || shows(state.second))) return answers.delete(asked);
        const failed = error => `this map was not computed: ${error?.message ?? error}`;
        const answer = await Promise.resolve(model.exact(x, y, r, kind)).catch(failed);
        answers.set(asked, typeof answer === "string" ? answer : Float64Array.from(answer));
        if (answers.size > 24) answers.delete(answers.keys().next().value);
        refresh();
      }, 250);
    }
    return answers.get(asked);
  }
  /** (K,) the class probabilities of a subject that is a pixel. @param {Subject} subject */
  const likelyAt = ({ x, y }) => probabilities(arrays.logits, classes.length, header.grid, header.size, x, y);
  /** For each class with cells: the shares of their attention by class, and by chance. */
  const matrixOf = () => [...names.keys()].filter(k => maps.cells[k].length).map(k => {
    const [weights] = maps.of(maps.cells[k], [state.recurrence], state.kind);
    return { k, ...maps.shares(weights, maps.cells[k], state.recurrence) };
  });

  // -- What is drawn once --

  const parts = made(PAGE), { root, stage } = parts, [rise, run] = header.frame;
  const photo = URL.createObjectURL(new Blob([arrays.picture], { type: header.picture_type }));
  const scale = packed(Array.from({ length: 256 }, (_, n) => [...arrays.scale.subarray(3 * n, 3 * n + 3), 255]));
  const rows = [...root.querySelectorAll(".ccnet-row")].map(element => ({ element, panels: recurrences.map(r => {
    const panel = /** @type {any} */ ({ ...made(FIGURE), r, weights: null });
    panel.root.dataset.recurrence = panel.caption.dataset.value = r;
    panel.caption.textContent = `R = ${r}`;
    panel.canvas.setAttribute("aria-label", `attention map, R = ${r}`);
    element.append(panel.root);
    return panel;
  }) }));
  const settings = root.querySelectorAll("[data-set]"), sliders = root.querySelectorAll("input");
  for (const image of root.querySelectorAll("img")) image.src = photo;
  parts.picture.alt = header.alt;
  stage.setAttribute("aria-label", `${header.alt} with its labels. ${HELP}`);
  Object.assign(parts.title, { textContent: header.title, hidden: !header.title });
  root.style.setProperty("--ratio", `${run} / ${rise}`);
  root.style.setProperty("--stage", `${run}px`);
  root.classList.toggle("ccnet-sharp", header.sharp);
  paint(parts.gradient, [1, 256], [...scale.keys()], scale);
  paint(parts.labels, header.arrays.labels.shape, arrays.labels, packed(palette.map(colour => [...colour, 255])));
  const counts = new Float64Array(classes.length);
  for (const k of arrays.labels) counts[k]++;
  for (const k of leading(counts, counts.length, 1)) {
    const { root: chip } = made(CHIP), [colour, name, share] = chip.children;
    chip.dataset.class = k;
    colour.style.background = `rgb(${palette[k]})`;
    name.textContent = classes[k];
    share.textContent = percent(counts[k] / arrays.labels.length);
    parts.legend.append(chip);
  }

  // -- What is drawn at every change --

  function refresh() {
    if (closed) return;
    const main = subject(), subjects = state.second ? [main, pixel(state.second)] : [main];
    const found = subjects.map(mapsOf);
    const peak = Math.max(1e-30, ...found.flat().filter(map => typeof map !== "string").map(largest));
    const top = state.scale === "clipped" ? peak * 10 ** (-3 * state.clip) : peak;
    shown = { subjects, found, peak, top };
    const cuts = rows.flatMap(({ element, panels }, n) => {
      element.hidden = n >= subjects.length;
      if (element.hidden) return [];
      element.firstElementChild.textContent = subjects.length > 1 ? `${"AB"[n]}: ${subjects[n].name}` : hint();
      return panels.map((panel, at) => drawPanel(panel, found[n][at], subjects[n]));
    });
    const listed = cuts.map(cut => (cut === "-" ? cut : percent(cut))).join(", ");
    const above = cuts.some(cut => cut !== "-" && cut > 5e-4) && `above its end: ${listed} of the mass`;
    parts.low.textContent = state.scale === "log" ? short(peak / 1e4) : "0";
    parts.high.textContent = `${top < peak ? "≥ " : ""}${short(top)}`;
    parts.cut.textContent = `one scale; ${above || "nothing is clipped"}`;
    for (const button of settings)
      button.setAttribute("aria-pressed", String(String(state[button.dataset.set]) === button.dataset.value));
    for (const slider of sliders) if (+slider.value !== state[slider.name]) slider.value = state[slider.name];
    parts.clip.disabled = state.scale !== "clipped";
    placeMarkers(main);
    light(state.region?.k);
    drawFacts(main, found[0][recurrences.indexOf(state.recurrence)]);
    drawMatrix();
  }
  /** What is to be done in a mode before there is anything to show. */
  function hint() {
    if (state.region) return "";
    if (state.mode === "class") return "click a class, in the picture or below it";
    if (state.mode === "region") return "drag a rectangle over the picture";
    return state.placing ? "click the second pixel" : "";
  }
  /** Draw a map, or say why there is none; returns what share of it is above the scale's end, "-" for no map. */
  function drawPanel(panel, found, /** @type {Subject} */ { cell }) {
    const weights = typeof found === "string" ? null : found, { top } = shown, log = state.scale === "log";
    panel.weights = weights;
    panel.root.classList.toggle("ccnet-chosen", panel.r === state.recurrence);
    panel.canvas.hidden = !weights;
    panel.wait.textContent = weights ? "" : found;
    panel.note.textContent = "";
    cover(panel.cell, cell);
    if (!weights) return "-";
    const numbers = new Uint8ClampedArray(h * w), sum = total(weights);
    let cut = 0, marked = 0;
    for (let n = 0; n < h * w; n++) {
      const share = weights[n] / top;
      numbers[n] = Math.floor(255 * (log ? Math.log10(share) / 4 + 1 : share));
      if (share > 1) cut += weights[n] - top;
      if (arrays.marked?.[n]) marked += weights[n];
    }
    paint(panel.canvas, [h, w], numbers, scale);
    const notes = cell ? [`on the cross ${percent(maps.onCross(weights, cell))}`] : [];
    if (state.kind === "listeners") notes.push(`it gives ${sum.toFixed(2)}`);
    if (arrays.marked) notes.push(`on ${header.marked} ${percent(marked / (sum || 1))}`);
    panel.note.textContent = notes.join(" · ");
    return cut / (sum || 1);
  }
  /** Lay a frame over a cell, or hide it. */
  function cover(frame, cell) {
    frame.hidden = !cell;
    if (cell) place(frame, { left: cell[1] / w, top: cell[0] / h, width: 1 / w, height: 1 / h });
  }
  /** The markers on the picture, and how far all frames are zoomed. @param {Subject} main */
  function placeMarkers(main) {
    const { point, second, rectangle } = parts, { zoom, region, mode } = state;
    const mark = (marker, at) => {
      marker.hidden = !at;
      if (at) place(marker, { left: (at.x + 0.5) / width, top: (at.y + 0.5) / height });
    };
    cover(parts.cell, main.cell);
    mark(point, main.cell && state);
    mark(second, state.second);
    point.classList.toggle("ccnet-pinned", state.pinned);
    rectangle.hidden = mode !== "region" || !region?.from;
    if (!rectangle.hidden) {
      const [[left, right], [top, bottom]] = between(region.from, region.to);
      place(rectangle, { left: left / width, width: (right + 1 - left) / width });
      place(rectangle, { top: top / height, height: (bottom + 1 - top) / height });
    }
    const [across, down] = state.centre.map(middle => -100 * (clamp(middle, 0.5 / zoom, 1 - 0.5 / zoom) - 0.5 / zoom));
    const zoomed = zoom > 1 ? `scale(${zoom}) translate(${across}%, ${down}%)` : "none";
    const looks = { "--zoom": zoom, "--zoomed": zoomed, "--labels": state.labels, "--heat": 1 - state.photo };
    for (const [name, value] of Object.entries(looks))
      if (root.style.getPropertyValue(name) !== String(value)) root.style.setProperty(name, value);
    root.classList.toggle("ccnet-large", state.large);
  }
  /** Light a class up on the picture; none where k is undefined. */
  function light(k) {
    const veils = palette.map((_, other) => (other === k ? [255, 255, 255, 90] : [0, 0, 0, 150]));
    parts.lit.hidden = k === undefined;
    if (k < classes.length) paint(parts.lit, header.arrays.labels.shape, arrays.labels, packed(veils));
    else if (k !== undefined) paint(parts.lit, [h, w], maps.labels, packed(veils)); // a class of cells alone
  }
  /** A title, and a bar for each of the largest shares; a tick where `chance` would end it. */
  function drawBars(section, title, shares, words, chance) {
    const order = leading(shares);
    section.innerHTML = `<h3></h3>${BAR.repeat(order.length)}`;
    section.firstChild.textContent = title;
    order.forEach((k, n) => {
      const [colour, name, line, number, byChance] = section.children[n + 1].children, [filled, tick] = line.children;
      colour.style.background = `rgb(${palette[k]})`;
      name.textContent = name.title = names[k];
      number.textContent = words(shares[k]);
      place(filled, { width: shares[k] });
      place(tick, { left: chance?.[k] });
      tick.hidden = byChance.hidden = !chance;
      byChance.textContent = chance ? `by chance ${percent(chance[k])}` : "";
    });
  }
  /** What the pixel is taken for and what its map says, for screen readers after a rest. @param {Subject} main */
  function drawFacts(main, weights) {
    const taken = main.cell ? likelyAt(main) : [], verb = state.kind === "attention" ? "looks at" : "is heard by";
    const title = `With R = ${state.recurrence} ${main.cell ? "it" : main.name} ${verb}`;
    clearTimeout(speaking);
    parts.likely.hidden = !main.cell;
    drawBars(parts.likely, `Pixel (${main.x}, ${main.y}) is taken for`, taken, share => share.toFixed(2));
    if (typeof weights === "string") return drawBars(parts.looks, `${title}: no map here`, []);
    const { mass, chance } = maps.shares(weights, main.cells, state.recurrence);
    drawBars(parts.looks, title, mass, percent, chance);
    speaking = setTimeout(() => {
      const first = leading(taken, 1).map(k => `: ${classes[k]} ${taken[k].toFixed(2)}`);
      const seen = leading(mass, 2).map(k => `${names[k]} ${percent(mass[k])}`);
      parts.live.textContent = `${main.name}${first}, ${verb} ${seen.join(", ")}`;
    }, 400);
  }
  /** The table of the classes, where it is open and not yet there. */
  function drawMatrix() {
    const { matrix, table } = parts, asked = `${state.recurrence} ${state.kind}`;
    if (!matrix.open || table.dataset.of === asked) return;
    table.dataset.of = asked;
    table.textContent = steps[0].table ? "" : "This picture has too many cells for the whole matrix in a page.";
    if (!steps[0].table) return;
    const found = matrixOf(), grid = document.createElement("table");
    const head = grid.createTHead(), body = grid.createTBody();
    const line = (name, cells) => [worded("th", name), ...cells];
    const titles = found.map(({ k }) => worded("th", names[k]));
    head.insertRow().append(...line(`of … with R = ${state.recurrence}`, titles));
    for (const { k, mass, chance } of found)
      body.insertRow().append(...line(names[k], found.map(({ k: other }) => {
        const cell = worded("td", percent(mass[other]));
        cell.title = `by chance ${percent(chance[other])}`;
        cell.style.setProperty("--share", `${Math.round(85 * mass[other])}%`);
        return cell;
      })));
    table.append(grid);
  }

  // -- What the visitor does --

  /** Change the state; the host hears of it after a rest of some milliseconds. */
  function change(changes, rest = 0) {
    Object.assign(state, changes);
    if (changes.pinned) answers.forEach((answer, asked) => typeof answer === "string" && answers.delete(asked));
    refresh();
    clearTimeout(sharing);
    sharing = setTimeout(() => {
      for (const name of SHARED) if (model.get(name) !== state[name]) model.set(name, state[name]);
      model.save_changes();
    }, rest);
  }
  /** The image pixel under the pointer, within the picture. */
  function under(event, frame = stage) {
    const box = frame.firstElementChild.getBoundingClientRect();
    const at = (distance, side, pixels) => clamp(Math.floor((distance / side) * pixels), 0, pixels - 1);
    return { x: at(event.clientX - box.left, box.width, width), y: at(event.clientY - box.top, box.height, height) };
  }
  /** Let the pixel follow the pointer. */
  function follow(event) {
    const { x, y } = under(event);
    if (x === state.x && y === state.y) return;
    change({ x, y }, 200);
    milliseconds = performance.now() - event.timeStamp;
  }
  function chooseClass(k) {
    const same = state.mode === "class" && state.region?.k === k;
    change(same ? { mode: "pixel", region: null } : { mode: "class", region: { k } });
  }
  /** Zoom around a centre; from the whole picture, around the pixel on show. */
  function zoom(factor, centre = state.zoom > 1 ? state.centre : [state.x / width, state.y / height]) {
    change({ zoom: clamp(state.zoom * factor, 1, 12), centre });
  }
  /** Move the zoomed picture with the pointer. */
  function pan(event) {
    const box = stage.firstElementChild.getBoundingClientRect(), half = 0.5 / state.zoom;
    const moved = [event.movementX / box.width, event.movementY / box.height];
    change({ centre: state.centre.map((at, n) => clamp(at - moved[n], half, 1 - half)) });
  }
  /** What a press does on the picture that is no drag. */
  function choose(event) {
    const { x, y } = under(event);
    if (event.shiftKey || state.placing) change({ second: { x, y }, placing: false });
    else if (state.mode === "class") chooseClass(maps.labels[pixel({ x, y }).cells[0]]);
    else if (state.mode === "pixel") change({ x, y, pinned: true });
  }

  root.addEventListener("click", event => {
    const { set, value, class: k, act } = event.target.closest("button")?.dataset ?? {};
    if (act === "copy") copy();
    else if (act === "png" || act === "svg") savePicture(act);
    else if (act === "compare" && state.second) change({ second: null });
    else if (act === "compare") change({ placing: !state.placing, mode: "pixel", region: null });
    else if (act === "large") change({ large: !state.large });
    else if (act === "free") change(FREE);
    else if (act) zoom(act === "closer" ? 1.5 : 1 / 1.5);
    else if (k) chooseClass(+k);
    else if (set === "mode") change({ mode: value, region: null });
    else if (set) change({ [set]: set === "recurrence" ? +value : value });
  });
  root.addEventListener("input", ({ target }) => change({ [target.name]: +target.value }));
  parts.matrix.addEventListener("toggle", drawMatrix);
  // A class of the legend lights up under the pointer, and a cell of a map is told in numbers.
  for (const type of ["pointerover", "pointerleave"])
    parts.legend.addEventListener(type, event => {
      const chip = event.target.closest("[data-class]");
      light(chip ? +chip.dataset.class : state.region?.k);
    });
  for (const type of ["pointermove", "pointerleave"])
    parts.right.addEventListener(type, event => {
      for (const { frame, weights, value } of rows.flatMap(row => row.panels)) {
        const on = weights && frame.contains(event.target), { cell, cells } = pixel(under(event, frame));
        value.textContent = on ? `cell (${cell.join(", ")}): ${short(weights[cells[0]])}` : "";
      }
    });
  let down = null, dragged = false; // the event with which a button or finger went down, and whether it moved since
  stage.addEventListener("pointerdown", event => {
    if (event.button) return;
    down = event; dragged = false;
    stage.setPointerCapture(event.pointerId);
    if (event.pointerType !== "mouse" && state.mode === "pixel" && !state.placing) follow(event);
  });
  stage.addEventListener("pointermove", event => {
    dragged ||= !!down && Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) > 4;
    if (dragged && event.shiftKey && state.zoom > 1) pan(event);
    else if (dragged && state.mode === "region") {
      const [from, to] = [down, event].map(at => Object.values(under(at)));
      change({ region: { from, to } });
    } else if (state.mode === "pixel" && (!state.pinned || (down && event.pointerType !== "mouse"))) follow(event);
  });
  stage.addEventListener("pointerup", event => {
    if (down && !dragged) choose(event);
    else if (down && event.pointerType !== "mouse" && state.mode === "pixel") change({ ...under(event), pinned: true });
    down = null;
  });
  stage.addEventListener("pointercancel", () => (down = null));
  stage.addEventListener("wheel", event => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, [under(event).x / width, under(event).y / height]);
  }, { passive: false });
  stage.addEventListener("keydown", event => {
    const { key } = event, arrow = ARROWS[key], [i, j] = pixel(state).cell;
    const r = recurrences.find(number => String(number) === key);
    const middle = (cell, cells, pixels) => Math.floor(((clamp(cell, 0, cells - 1) + 0.5) * pixels) / cells);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (arrow) {
      const [x, y] = [middle(j + arrow[0], w, width), middle(i + arrow[1], h, height)];
      change({ x, y, pinned: true, mode: "pixel", region: null, centre: [x / width, y / height] });
    }
    else if (key === "Escape") change(FREE);
    else if (key === "Enter" || key === " ") change({ pinned: !state.pinned });
    else if (key.toLowerCase() === "l") change({ large: !state.large });
    else if (r) change({ recurrence: r });
    else if (key in ZOOMS) zoom(ZOOMS[key]);
    else return;
    event.preventDefault();
  });

  // -- What can be taken away --

  /** Every number that is shown. */
  function numbers() {
    const { subjects, found, peak, top } = shown, { model, trained, size, grid } = header;
    const named = shares => Object.fromEntries([...shares].map((share, k) => [names[k], +share.toPrecision(6)]));
    const mapOf = ({ cell, cells }, weights, recurrence) => {
      if (typeof weights === "string") return { recurrence };
      const { mass, chance } = maps.shares(weights, cells, recurrence);
      const on_cross = cell ? maps.onCross(weights, cell) : null;
      return { recurrence, sum: total(weights), on_cross, class_shares: named(mass), by_chance: named(chance) };
    };
    return {
      model, trained_recurrence: trained, size, grid, peak, scale_end: top, direction: state.kind,
      subjects: subjects.map((subject, n) => ({
        name: subject.name, cell: subject.cell ?? null, cells: subject.cells.length,
        probabilities: subject.cell ? named(likelyAt(subject)) : null,
        maps: recurrences.map((r, at) => mapOf(subject, found[n][at], r)),
      })),
    };
  }
  async function copy() {
    const table = parts.matrix.open && steps[0].table ? matrixOf() : undefined;
    const class_by_class = table?.map(({ mass, chance }) => ({ share: [...mass], by_chance: [...chance] }));
    const text = JSON.stringify({ ...numbers(), class_by_class }, null, 1);
    try {
      await navigator.clipboard.writeText(text);
      parts.said.textContent = "copied";
    } catch { // no secure page, or refused
      save(new Blob([text], { type: "application/json" }), "attention.json");
      parts.said.textContent = "saved as attention.json, since this page may not copy";
    }
  }
  /** What is shown as an SVG: text as text, pictures embedded. */
  async function svg() {
    const side = 280, step = 300, tall = Math.round((side * rise) / run), { subjects } = shown, drawn = [];
    const wide = 10 + step * (1 + recurrences.length), high = 60 + subjects.length * (tall + 60);
    const text = (x, y, words, size = 12, anchor = "middle") =>
      drawn.push(tag("text", { x, y, "font-size": size, "text-anchor": anchor }, words));
    const picture = (x, y, canvas, width = side, height = tall) =>
      drawn.push(tag("image", { x, y, width, height, preserveAspectRatio: "none", href: canvas.toDataURL() }));
    await parts.picture.decode();
    const ground = resized(parts.picture, 2 * run, 2 * rise, !header.sharp), context = ground.getContext("2d");
    Object.assign(context, { globalAlpha: state.labels, imageSmoothingEnabled: false });
    context.drawImage(parts.labels, 0, 0, 2 * run, 2 * rise);
    text(10 + side / 2, 32, "labels");
    picture(10, 40, ground);
    subjects.forEach(({ cell, x, y }, n) => {
      const ring = { cx: 10 + (side * (x + 0.5)) / width, cy: 40 + (tall * (y + 0.5)) / height, r: 6, fill: "none" };
      for (const [stroke, wide] of cell ? [["black", 4], ["white", 2]] : [])
        drawn.push(tag("circle", { ...ring, stroke, "stroke-width": wide }));
      rows[n].panels.forEach((panel, at) => {
        const left = 10 + (at + 1) * step, upper = 40 + n * (tall + 60), larger = Math.ceil(560 / w);
        if (!panel.weights) return;
        picture(left, upper, resized(panel.canvas, w * larger, h * larger, false));
        const box = cell && { x: left + (side * cell[1]) / w, y: upper + (tall * cell[0]) / h, width: side / w };
        if (cell) drawn.push(tag("rect", { ...box, height: tall / h, fill: "none", stroke: "white" }));
        text(left + side / 2, upper - 8, `R = ${panel.r}`);
        text(left + side / 2, upper + tall + 18, panel.note.textContent, 11);
      });
    });
    const all = subjects.map(({ name }) => name).join(" and ");
    const look = subjects.length > 1 || all.startsWith("all") ? "look" : "looks";
    const words = state.kind === "attention" ? `what ${all} ${look} at` : `who listens to ${all}`;
    text(wide / 2, 16, `${header.model}, trained at R = ${header.trained}: ${words}`, 13);
    text(4 + step, high - 17, parts.low.textContent, 10, "end");
    picture(10 + step, high - 26, parts.gradient, 200, 10);
    const end = state.scale === "log" ? ", logarithmic" : "";
    text(216 + step, high - 17, `${parts.high.textContent}${end}`, 10, "start");
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${wide}" height="${high}" viewBox="0 0 ${wide} ${high}" `
      + `font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>${drawn.join("")}</svg>`;
  }
  async function savePicture(kind) {
    try {
      const file = new Blob([await svg()], { type: "image/svg+xml" });
      if (kind === "svg") return save(file, "attention.svg");
      const image = Object.assign(new Image(), { src: URL.createObjectURL(file) });
      await image.decode();
      resized(image, 2 * image.width, 2 * image.height, true).toBlob(blob => save(blob, "attention.png"), "image/png");
      URL.revokeObjectURL(image.src);
    } catch (error) { parts.said.textContent = `the picture was not saved: ${error.message}`; }
  }

  Object.assign(root, {
    ccnetMap: (i, j, r, kind = "attention") => Float32Array.from(maps.of([i * w + j], [r], kind)[0]),
    ccnetState: () => ({ ...state, ...numbers(), milliseconds }),
    ccnetShow: changes => change(changes),
  });
  refresh();
  el.replaceChildren(root);
  return {
    state,
    adopt(name) {
      const value = model.get(name) ?? state[name];
      if (value === state[name]) return;
      state[name] = allowed(name, value);
      refresh();
    },
    close() {
      closed = true;
      for (const timer of [sharing, speaking]) clearTimeout(timer);
      URL.revokeObjectURL(photo);
    },
  };
}

/** Show a host's view in `el`, again when its payload changes, or a sentence why not; returns what ends that. */
function render({ model, el }) {
  let newest = 0, shown = null, kept = {};
  const open = async () => {
    const turn = ++newest, payload = fetched(model.get("payload")).then(decoded);
    await payload.catch(() => {});
    if (turn !== newest) return;
    if (shown) kept = (({ kind, scale, large }) => ({ kind, scale, large }))(shown.state);
    shown?.close();
    shown = null;
    try {
      shown = view(el, model, await payload, kept);
    } catch (error) {
      const known = error instanceof Error && error.constructor === Error;
      const words = known ? error.message : `the view cannot be shown (${error}); make or save it again`;
      const line = Object.assign(worded("p", words), { className: "ccnet-problem", role: "alert" });
      line.dataset.ccnetViewer = "";
      el.replaceChildren(line);
    }
  };
  const acts = { "change:payload": open };
  for (const name of SHARED) acts[`change:${name}`] = () => shown?.adopt(name);
  for (const [event, act] of Object.entries(acts)) model.on(event, act);
  open();
  return () => {
    newest++;
    shown?.close();
    for (const [event, act] of Object.entries(acts)) model.off?.(event, act);
  };
}

export default { render };
