// The living map: criss-cross attention that follows the pointer, in the app, in a notebook and in a page of its own.
// A host gives a model with get, set, save_changes and on, and where it can off and exact; payload.py makes the data,
// viewer.css the looks. K classes, H W image, h w feature cells, R recurrences; cell i * w + j lies in row i, column j.
// A move of the pointer goes through `follow`, `change` and `refresh`, which derives all that is shown and draws it.

/** @typedef {{cells: number[], name: string, box?: any, cell?: any, x?: any, y?: any}} Subject of maps */

// ---- Reading the payload: a header in JSON, then arrays ----

const DAMAGED = "the view's data is damaged or cut short; save or make it again";
const TYPES = { float16: Uint16Array, float32: Float32Array, uint8: Uint8Array };

/** The values of float16 numbers over `scaled`, looked up by their bits: those, moved, are a float32 over 2 ** 112. */
function fromHalves(/** @type {Uint16Array} */ halves, scaled) {
  const table = new Float32Array(1 << 16), bits = new Uint32Array(table.buffer);
  for (let half = 0; half < table.length; half++) {
    bits[half] = ((half & 0x8000) << 16) | ((half & 0x7fff) << 13);
    table[half] = (half & 0x7c00) === 0x7c00 ? NaN : (table[half] * 2 ** 112) / scaled;
  }
  const values = new Float32Array(halves.length);
  for (let n = 0; n < halves.length; n++) values[n] = table[halves[n]];
  return values;
}

/** The bytes of a payload from an address, a DataView or an array, unpacked if they are gzipped. */
async function fetched(source) {
  if (typeof source === "string") {
    const answer = await fetch(source).catch(error => /** @type {any} */ ({ status: error.message }));
    if (!answer.ok) throw new Error(`the view is no longer on the server (${answer.status}); load the page again`);
    source = await answer.arrayBuffer();
  }
  if (!source?.byteLength) throw new Error("the view is empty; make it again with view.widget() or view.save_html()");
  const data = new Uint8Array(source.buffer ?? source, source.byteOffset ?? 0, source.byteLength);
  if (data[0] !== 0x1f || data[1] !== 0x8b) return data;
  if (typeof DecompressionStream === "undefined")
    throw new Error("this browser has no DecompressionStream to unpack the view; open it in one from 2023 or later");
  const unpacked = new Response(new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip")));
  return new Uint8Array(await unpacked.arrayBuffer());
}

/** The header and the arrays by name; float16 becomes Float32Array. @param {Uint8Array} bytes */
function decoded(bytes) {
  const text = (from, to) => new TextDecoder().decode(bytes.subarray(from, to));
  if (text(0, 4) !== "CCNV") throw new Error(DAMAGED);
  const data = bytes.slice().buffer; // a copy, since arrays must be aligned
  const begin = 8 + new DataView(data).getUint32(4, true);
  const header = JSON.parse(text(8, begin)), arrays = /** @type {any} */ ({});
  for (const [name, { dtype, shape, offset }] of Object.entries(header.arrays)) {
    const scaled = name.startsWith("attention") ? header.scaled : 1;
    let values = new TYPES[dtype](data, begin + offset, shape.reduce((product, side) => product * side, 1));
    if (dtype === "float16") values = fromHalves(values, scaled);
    else if (scaled !== 1) values = values.map(weight => weight / scaled);
    if (!Number.isFinite(total(values)))
      throw new Error(`the view's array ${name} holds NaN or infinity; look at the picture again with finite weights`);
    arrays[name] = values;
  }
  return { header, arrays };
}

// ---- Computing: no DOM; the same answers as explore/maps.py. Loops, which are faster than reduce ----

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

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

/** The softmax of some scores, in their place. @param {Float64Array} scores */
function softmax(scores) {
  const top = largest(scores);
  for (let n = 0; n < scores.length; n++) scores[n] = Math.exp(scores[n] - top);
  const sum = total(scores);
  for (let n = 0; n < scores.length; n++) scores[n] /= sum;
  return scores;
}

/** Add to `count` values of `out` what four cells pass on, `step` apart, or as many as are `left` of them: from column
 * `first` of the table on. Four are faster than one at a time, since every sum is read and written once for all. */
function addFour(out, at, count, weights, cell, step, left, table, first, size) {
  const second = left > 1 ? step : 0, third = left > 2 ? 2 * step : 0, fourth = left > 3 ? 3 * step : 0;
  const a = weights[cell], b = second && weights[cell + second];
  const c = third && weights[cell + third], d = fourth && weights[cell + fourth];
  if (!a && !b && !c && !d) return;
  const p = cell * size + first, q = p + second * size, r = p + third * size, s = p + fourth * size;
  for (let n = 0; n < count; n++)
    out[at + n] += a * table[p + n] + b * table[q + n] + c * table[r + n] + d * table[s + n];
}

/** (K,) class probabilities at pixel (x, y): logits (K, h, w), upsampled bilinearly to H x W. */
function probabilities(logits, classes, [h, w], [height, width], x, y) {
  const place = (at, cells, pixels) => clamp(((at + 0.5) * cells) / pixels - 0.5, 0, cells - 1);
  const v = place(y, h, height), u = place(x, w, width), i = Math.floor(v), j = Math.floor(u);
  const at = (k, row, column) => logits[(k * h + Math.min(row, h - 1)) * w + Math.min(column, w - 1)];
  const along = (k, row) => (1 - u + j) * at(k, row, j) + (u - j) * at(k, row, j + 1);
  return softmax(new Float64Array(classes).map((_, k) => (1 - v + i) * along(k, i) + (v - i) * along(k, i + 1)));
}

/** The attention of a picture's cells, composed over recurrences; a map has one number for each cell. */
class Maps {
  /** `arrays` of each step, from 1: attention (hw, h + w), or query and key (hw, d); cell_labels (hw) of `classes`. */
  constructor([h, w], arrays, classes) {
    this.h = h; this.w = w; this.arrays = arrays; this.labels = arrays.cell_labels;
    this.cells = Array.from({ length: classes }, () => /** @type {number[]} */ ([])); // of each class
    this.labels.forEach((k, cell) => this.cells[k].push(cell));
    this.steps = [1, 2, 3, 4, 5, 6, 7, 8].filter(n => `attention${n}` in arrays || `query${n}` in arrays);
    this.kept = new Map(); // the newest maps, since a slider or a second pixel asks for the same again
    this.turned = {}; // the tables' transposes, made when they are first needed
  }

  /** Whether there are tables of every step, not only queries and keys. */
  get whole() { return this.steps.every(step => `attention${step}` in this.arrays); }

  /** Whether the map of so many cells can be had within a frame: without tables, only of one, near its cross. */
  quick(recurrence, kind, count) {
    const most = kind === "listeners" ? 1 : "attention1" in this.arrays ? 3 : 2;
    return this.whole || (count === 1 && recurrence <= most);
  }

  /** The transpose of a table, again as one: what each cell gives to its column and its row. */
  transposed(table) {
    const { h, w } = this, n = h + w, out = new Float32Array(table.length);
    for (let i = 0, from = 0; i < h; i++)
      for (let j = 0; j < w; j++) {
        for (let other = 0; other < h; other++) out[(other * w + j) * n + i] = table[from++];
        for (let other = 0; other < w; other++) out[(i * w + other) * n + h + j] = table[from++];
      }
    return out;
  }

  /** The weights of cells, carried over a step: to what they look at, or to who listens to them. */
  carried(weights, step, kind) {
    let table = this.arrays[`attention${step}`];
    if (!table) return this.carriedFew(weights, step, kind);
    const { h, w } = this, across = new Float64Array(h * w), down = new Float64Array(h * w); // down is transposed
    if (kind === "listeners") table = this.turned[step] ??= this.transposed(table);
    for (let top = 0; top < h; top += 4)
      for (let left = 0; left < w; left += 4) {
        for (let i = top; i < Math.min(top + 4, h); i++)
          addFour(across, i * w, w, weights, i * w + left, 1, w - left, table, h, h + w);
        for (let j = left; j < Math.min(left + 4, w); j++)
          addFour(down, j * h, h, weights, top * w + j, w, h - top, table, 0, h + w);
      }
    for (let i = 0; i < h; i++) for (let j = 0; j < w; j++) across[i * w + j] += down[j * h + i];
    return across;
  }

  /** As `carried`, from queries and keys: for few cells only. */
  carriedFew(weights, step, kind) {
    const { h, w } = this, out = new Float64Array(h * w);
    weights.forEach((weight, cell) => {
      if (!weight) return;
      const i = Math.floor(cell / w), j = cell % w, own = kind === "attention" && this.row(step, cell);
      for (let n = 0; n < h + w; n++) {
        const other = n < h ? n * w + j : i * w + n - h;
        out[other] += weight * (own ? own[n] : this.row(step, other)[n < h ? i : h + j]);
      }
    });
    return out;
  }

  /** The attention of a cell over its cross: h column entries, then w row entries, computed from query and key. */
  row(step, cell) {
    const { h, w } = this, { [`query${step}`]: query, [`key${step}`]: key } = this.arrays;
    const scores = new Float64Array(h + w), depth = query.length / (h * w), i = Math.floor(cell / w), j = cell % w;
    for (let n = 0; n < h + w; n++) {
      const other = n < h ? n * w + j : i * w + n - h;
      for (let d = 0; d < depth; d++) scores[n] += query[cell * depth + d] * key[other * depth + d];
      if (n === i) scores[n] = -Infinity; // itself once
    }
    return softmax(scores);
  }

  /** The mean map of some cells: what they look at, or who listens to them. @param {number[]} cells */
  of(cells, recurrence, kind) {
    const asked = `${kind} ${recurrence} ${cells}`, even = new Float64Array(this.h * this.w);
    if (this.kept.has(asked)) return this.kept.get(asked);
    const order = Array.from({ length: recurrence }, (_, n) => n + 1);
    if (kind === "attention") order.reverse();
    for (const cell of cells) even[cell] = 1 / cells.length;
    const map = order.reduce((weights, step) => this.carried(weights, step, kind), even);
    this.kept.set(asked, map);
    if (this.kept.size > 12) this.kept.delete(this.kept.keys().next().value);
    return map;
  }

  /** What a map says of some cells: its sum, its share on the cross of a `cell` (i, j), its shares by class, and what
   * features that are the same everywhere would give these cells. */
  says(weights, cells, recurrence, cell = null) {
    const { h, w, labels } = this, mass = new Float64Array(this.cells.length), chance = new Float64Array(mass);
    const sum = total(weights), all = sum || 1, crossed = h + w - 1, even = 1 / (cells.length * crossed ** recurrence);
    for (let n = 0; n < weights.length; n++) mass[labels[n]] += weights[n] / all;
    let own = 1, row = 0, column = 0, rest = 0; // powers of the uniform attention, as in maps.uniform_map
    for (let step = 0; step < recurrence; step++)
      [own, row, column, rest] = [-own, own + (w - 1) * row, own + (h - 1) * column, row + column + crossed * rest];
    let cross = 0;
    for (const place of cells) {
      const i = Math.floor(place / w), j = place % w;
      cross -= weights[place];
      chance[labels[place]] += even * own;
      for (let n = 0; n < w; n++) { cross += weights[i * w + n]; chance[labels[i * w + n]] += even * row; }
      for (let n = 0; n < h; n++) { cross += weights[n * w + j]; chance[labels[n * w + j]] += even * column; }
    }
    this.cells.forEach((own, k) => (chance[k] += even * rest * cells.length * own.length));
    return { sum, cross: cell ? cross / all : null, mass, chance };
  }
}

// ---- The page ----

class Markup extends String {}
const escaped = value => value instanceof Markup ? value : Array.isArray(value) ? value.map(escaped).join("")
  : String(value ?? "").replace(/[&<>"']/g, sign => `&#${sign.charCodeAt(0)};`);
/** HTML or SVG; what is inserted goes in as text, but for markup made by this. @returns {any} */
const html = (strings, ...values) => new Markup(String.raw({ raw: strings }, ...values.map(escaped)));

const HELP = "move: the map follows · click: pin · Shift+click: compare · Esc: free · arrows: a cell · 1 2 3: R"
  + " · L: one large · + − or two fingers: zoom";
const BUTTONS = [ // what it sets in the state or does, the value, its text, its title
  ["kind", "attention", "looks at", "what the pixel looks at"],
  ["kind", "listeners", "who listens", "how much others take from it"],
  ["scale", "raw", "raw", "from 0 to the peak"],
  ["scale", "clipped", "clipped", "the scale ends where the slider says"],
  ["scale", "log", "log", "four powers of ten below the peak"],
  ["mode", "pixel", "pixel", "one pixel"],
  ["mode", "region", "region", "drag a rectangle: the mean of its cells"],
  ["mode", "class", "class", "click a class: the mean of all its cells"],
  ["copy", "", "Copy numbers", "everything shown, as JSON"],
  ["png", "", "PNG", "save what is shown"],
  ["svg", "", "SVG", "save with text as text"],
  ["compare", "", "Compare", "a second pixel beside the first; again to end it"],
  ["large", "", "Large", "one map large"],
  ["free", "", "Free", "let the pixel follow the pointer again"],
  ["farther", "", "−", "zoom out"],
  ["closer", "", "+", "zoom in; Shift and drag moves"],
];
const KEYS = {
  ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down", Escape: "free", Enter: "pin", " ": "pin",
  l: "large", L: "large", "+": "closer", "=": "closer", "-": "farther", 0: "whole",
};
const HINTS = { class: "click a class, in the picture or below it", region: "drag a rectangle over the picture" };
const SHARED = ["x", "y", "recurrence", "clip", "labels", "photo"]; // what a host may read and set
const FREE = { pinned: false, second: null, placing: false, region: null, mode: "pixel", large: false };

const percent = share => `${(100 * share).toFixed(share >= 0.0995 || share === 0 ? 0 : 1)} %`;
const short = value => (value === 0 || value >= 0.001 ? String(+value.toPrecision(2)) : value.toExponential(0));

const button = ([act, value, text, title]) =>
  html`<button type="button" data-act="${act}" data-value="${value}" title="${title}">${text}</button>`;
const choice = (act, label) => html`<div class="ccnet-choice" role="group" aria-label="${label}">
  ${BUTTONS.filter(([other]) => act === other).map(button)}</div>`;
const slider = (name, text) => html`<label class="ccnet-slider" data-slider="${name}">${text}
  <input type="range" max="1" step="0.01" name="${name}"></label>`;
const chip = ({ k, name, colour, share }) => html`<button type="button" data-act="class" data-value="${k}"
  data-class="${k}" title="click: the mean map of its cells"><u style="background:${colour}"></u><span>${name}</span>
  <i>${percent(share)}</i></button>`;
const figure = r => html`<figure data-recurrence="${r}">
  <div class="ccnet-frame ccnet-map"><div class="ccnet-layers">
    <img alt="" draggable="false"><canvas class="ccnet-heat" role="img" aria-label="attention map, R = ${r}"></canvas>
    <div class="ccnet-cell"></div>
  </div><p class="ccnet-wait"></p></div>
  <figcaption>${button(["recurrence", r, `R = ${r}`, "show the facts for this R"])}<em></em><span></span></figcaption>
</figure>`;
const row = recurrences => html`<div class="ccnet-row"><p class="ccnet-name"></p>${recurrences.map(figure)}</div>`;
const page = ({ title, alt, recurrences }, chips) => html`<div class="ccnet-viewer" data-ccnet-viewer>
  <p class="ccnet-title" ${title ? "" : "hidden"}>${title}</p>
  <div class="ccnet-main"><div class="ccnet-left">
    <div class="ccnet-frame ccnet-stage" data-part="stage" tabindex="0" role="application"
      aria-label="${alt} with its labels. ${HELP}"><div class="ccnet-layers" data-part="layers">
      <img data-part="picture" draggable="false" alt="${alt}">
      <canvas class="ccnet-labels" data-part="labels"></canvas><canvas class="ccnet-lit" data-part="lit"></canvas>
      <div class="ccnet-cell" data-part="cell"></div><div class="ccnet-point" data-part="point"></div>
      <div class="ccnet-point ccnet-second" data-part="second"></div>
    </div></div>
    <div class="ccnet-legend" data-part="legend">${chips.map(chip)}</div>
  </div><div class="ccnet-right" data-part="right">
    ${row(recurrences)}${row(recurrences)}
    <div class="ccnet-scale">
      <i data-part="low"></i><canvas data-part="gradient"></canvas><i data-part="high"></i><span data-part="cut"></span>
    </div>
    <div class="ccnet-controls">${choice("kind", "direction")}${choice("scale", "colour scale")}
      ${choice("mode", "of what")}</div>
    <div class="ccnet-controls">${slider("labels", "labels")}${slider("photo", "photo under maps")}
      ${slider("clip", "clip")}</div>
    <div class="ccnet-facts" data-part="facts"></div>
  </div></div>
  <details class="ccnet-matrix" data-part="matrix">
    <summary>Class by class: where each class looks</summary><div data-part="table"></div>
  </details>
  <div class="ccnet-actions">${BUTTONS.filter(([, value]) => !value).map(button)}
    <span data-part="said" role="status"></span></div>
  <p class="ccnet-help">${HELP}</p><div class="ccnet-hidden" data-part="live" role="status" aria-live="polite"></div>
</div>`;

/** The numbers of the largest shares, the largest first; not of those too small to be seen. @returns {number[]} */
const leading = (shares, most = 4, least = 0.005) =>
  [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, most).filter(k => shares[k] >= least);

/** Place an element in its frame, by shares of the frame's sides, or hide it. */
function lay(element, sides) {
  element.hidden = !sides;
  for (const [side, share] of Object.entries(sides || {})) element.style[side] = `${100 * share}%`;
}

/** Colours of red, green, blue and opacity, 0..255, as `paint` takes them. @param {number[][]} colours */
const packed = colours => new Uint32Array(new Uint8Array(colours.flat()).buffer);

/** Paint a canvas: for each pixel the number of its colour. @param {Uint32Array} colours */
function paint(canvas, [height, width], numbers, colours) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const image = new ImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  for (let n = 0; n < pixels.length; n++) pixels[n] = colours[numbers[n]];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** A picture in another size on a canvas of its own. @returns {HTMLCanvasElement} */
function resized(picture, width, height, smooth) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height }), context = canvas.getContext("2d");
  context.imageSmoothingEnabled = smooth;
  context.drawImage(picture, 0, 0, width, height);
  return canvas;
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
  const [height, width] = header.size, [h, w] = header.grid, [rise, run] = header.frame;
  const { classes, palette, recurrences } = header, colours = palette.map(colour => `rgb(${colour})`);
  const names = arrays.marked ? [...classes, header.marked] : classes; // of the cells' labels
  const maps = new Maps(header.grid, arrays, names.length);
  const state = /** @type {any} */ ({
    mode: "pixel", second: null, placing: false, region: null, zoom: 1, centre: [0.5, 0.5], large: !!kept.large,
    kind: kept.kind ?? model.get("kind") ?? header.kind, scale: kept.scale ?? model.get("scale") ?? header.scale,
    pinned: !!(model.get("pinned") ?? header.pinned),
    ...Object.fromEntries(SHARED.map(name => [name, allowed(name, model.get(name) ?? header[name])])),
  });
  const answers = new Map(); // the server's: maps, or sentences, by what was asked
  let shown, sharing, speaking, closed = false, milliseconds = 0; // from the pointer's last move to its maps
  /** A value that a host sets, within what this picture has. */
  function allowed(name, value) {
    if (name === "recurrence") return recurrences.includes(value) ? value : header.recurrence;
    return name === "x" || name === "y" ? clamp(Math.round(value), 0, (name === "x" ? width : height) - 1) : value;
  }

  // -- What is shown, derived from the state and the payload --

  /** Where cells lie in a frame, by shares of its sides. */
  const boxOf = (i, j, tall = 1, wide = 1) => ({ left: j / w, top: i / h, width: wide / w, height: tall / h });
  /** @returns {Subject} */
  function pixel({ x, y }) {
    const among = (at, cells, pixels) => Math.min(Math.floor(((at + 0.5) * cells) / pixels), cells - 1);
    const i = among(y, h, height), j = among(x, w, width);
    return { cells: [i * w + j], name: `pixel (${x}, ${y})`, box: boxOf(i, j), cell: [i, j], x, y };
  }
  /** The class, region or pixel that the maps are of. @returns {Subject} */
  function subject() {
    const { mode, region } = state, same = mode === "class" && maps.cells[region?.k], cells = [];
    const many = same?.length ? `all ${same.length} cells` : "no cell";
    if (same) return { cells: same, name: `${many} of ${names[region.k]}` };
    if (mode !== "region" || !region?.from) return pixel(state);
    const [from, to] = [region.from, region.to].map(([x, y]) => pixel({ x, y }).cell);
    const [top, left] = from.map((at, n) => Math.min(at, to[n]));
    const [tall, wide] = from.map((at, n) => 1 + Math.abs(at - to[n]));
    for (let n = 0; n < tall * wide; n++) cells.push((top + Math.floor(n / wide)) * w + left + (n % wide));
    return { cells, name: `a region of ${wide} × ${tall} cells`, box: boxOf(top, left, tall, wide) };
  }
  /** A map that only the server can compute, or a sentence. @param {Subject} subject */
  function exact({ cell, x, y }, r) {
    if (header.tabulate || !cell || !model.exact) return header.tabulate ? "computing …" : "too large for this page";
    if (!state.pinned) return "pin a pixel for this map";
    const { kind } = state, asked = [x, y, r, kind].join();
    if (answers.has(asked)) return answers.get(asked);
    const shows = at => at?.x === x && at.y === y && state.kind === kind;
    setTimeout(async () => { // the pixel may only be on its way
      if (closed || !(shows(state) || shows(state.second))) return answers.delete(asked);
      const failed = error => `this map was not computed: ${error?.message ?? error}`;
      const answer = await Promise.resolve(model.exact(x, y, r, kind)).catch(failed);
      answers.set(asked, typeof answer === "string" ? answer : Float64Array.from(answer));
      if (answers.size > 24) answers.delete(answers.keys().next().value);
      refresh();
    }, 250);
    answers.set(asked, "computing …");
    return "computing …";
  }
  /** A subject with its class probabilities, if it is a pixel, and for each R its map and what that says. */
  function described(subject) {
    const { cell, cells, name, x, y } = subject, { kind } = state;
    const likely = cell && probabilities(arrays.logits, classes.length, header.grid, header.size, x, y);
    return { ...subject, likely, maps: recurrences.map(r => {
      if (!cells.length) return { r, missing: `${name}: the class is nowhere the largest in a cell` };
      const found = maps.quick(r, kind, cells.length) ? maps.of(cells, r, kind) : exact(subject, r);
      return typeof found === "string" ? { r, missing: found }
        : { r, weights: found, ...maps.says(found, cells, r, cell) };
    }) };
  }
  /** All that is shown; the maps share one scale, from 0 to `top`. */
  function derived() {
    const subjects = [subject(), ...(state.second ? [pixel(state.second)] : [])].map(described);
    const weights = subjects.flatMap(({ maps }) => maps).flatMap(({ weights }) => (weights ? [weights] : []));
    const peak = Math.max(1e-30, ...weights.map(largest));
    return { subjects, peak, top: state.scale === "clipped" ? peak * 10 ** (-3 * state.clip) : peak };
  }
  /** For each class with cells: the shares of their attention by class, and by chance. */
  const matrixOf = () => [...names.keys()].filter(k => maps.cells[k].length).map(k => {
    const weights = maps.of(maps.cells[k], state.recurrence, state.kind);
    return { k, ...maps.says(weights, maps.cells[k], state.recurrence) };
  });

  // -- What is drawn once --

  const counts = new Float64Array(classes.length);
  for (const k of arrays.labels) counts[k]++;
  const chips = leading(counts, counts.length, 1).map(k =>
    ({ k, name: classes[k], colour: colours[k], share: counts[k] / arrays.labels.length }));
  const template = Object.assign(document.createElement("template"), { innerHTML: page(header, chips) });
  const root = /** @type {any} */ (document.importNode(template.content, true).firstElementChild);
  const all = selector => /** @type {any[]} */ ([...root.querySelectorAll(selector)]);
  const parts = Object.fromEntries(all("[data-part]").map(part => [part.dataset.part, part])), { stage } = parts;
  const photo = URL.createObjectURL(new Blob([arrays.picture], { type: header.picture_type }));
  const scale = packed(Array.from({ length: 256 }, (_, n) => [...arrays.scale.subarray(3 * n, 3 * n + 3), 255]));
  const figures = all("figure"); // of the first subject for each R, then of the second
  const sliders = all("input"), choices = all("button").filter(({ dataset }) => dataset.act in state);
  for (const image of all("img")) image.src = photo;
  root.style.setProperty("--ratio", `${run} / ${rise}`);
  root.style.setProperty("--stage", `${run}px`);
  root.classList.toggle("ccnet-sharp", header.sharp);
  paint(parts.gradient, [1, 256], [...scale.keys()], scale);
  paint(parts.labels, header.arrays.labels.shape, arrays.labels, packed(palette.map(colour => [...colour, 255])));

  // -- What is drawn at every change --

  function refresh() {
    if (closed) return;
    shown = derived();
    drawMaps();
    drawMarkers();
    drawControls();
    drawFacts();
    drawMatrix();
  }
  /** The maps of one subject or two in one colour scale, and what the scale says. */
  function drawMaps() {
    const { subjects, peak, top } = shown, hint = state.placing ? "click the second pixel" : HINTS[state.mode] ?? "";
    all(".ccnet-row").forEach((row, n) => {
      row.hidden = n >= subjects.length;
      row.firstElementChild.textContent = subjects.length > 1 ? `${"AB"[n]}: ${subjects[n]?.name}`
        : state.region ? "" : hint;
    });
    const cuts = subjects.flatMap((subject, n) =>
      subject.maps.map((map, at) => drawMap(figures[n * recurrences.length + at], map, subject)));
    const listed = cuts.map(cut => (cut === null ? "-" : percent(cut))).join(", ");
    const above = cuts.some(cut => cut > 5e-4) ? `above its end: ${listed} of the mass` : "nothing is clipped";
    parts.low.textContent = state.scale === "log" ? short(peak / 1e4) : "0";
    parts.high.textContent = `${top < peak ? "≥ " : ""}${short(top)}`;
    parts.cut.textContent = `one scale; ${above}`;
  }
  /** Draw a map, or say why there is none; returns what share of it is above the scale's end, null for no map. */
  function drawMap(figure, { r, weights, missing, sum, cross, mass }, { cell, box }) {
    const { top } = shown, log = state.scale === "log", notes = [];
    const [canvas, frame, wait, note] = ["canvas", ".ccnet-cell", ".ccnet-wait", "figcaption span"]
      .map(selector => figure.querySelector(selector));
    figure.classList.toggle("ccnet-chosen", r === state.recurrence);
    canvas.hidden = !weights;
    wait.textContent = missing ?? "";
    note.textContent = "";
    lay(frame, box);
    if (!weights) return null;
    const numbers = new Uint8ClampedArray(h * w);
    let cut = 0;
    for (let n = 0; n < h * w; n++) {
      const share = weights[n] / top;
      numbers[n] = Math.floor(255 * (log ? Math.log10(share) / 4 + 1 : share));
      if (share > 1) cut += weights[n] - top;
    }
    paint(canvas, [h, w], numbers, scale);
    if (cell) notes.push(`on the cross ${percent(cross)}`);
    if (state.kind === "listeners") notes.push(`it gives ${sum.toFixed(2)}`);
    if (arrays.marked) notes.push(`on ${header.marked} ${percent(mass[classes.length])}`);
    note.textContent = notes.join(" · ");
    return cut / (sum || 1);
  }
  /** The markers on the picture, and how far all frames are zoomed. */
  function drawMarkers() {
    const [{ box, cell }] = shown.subjects, { zoom, region, second } = state;
    const point = at => at && { left: (at.x + 0.5) / width, top: (at.y + 0.5) / height };
    lay(parts.cell, box);
    lay(parts.point, point(cell && state));
    lay(parts.second, point(second));
    parts.point.classList.toggle("ccnet-pinned", state.pinned);
    const [across, down] = state.centre.map(middle => -100 * (clamp(middle, 0.5 / zoom, 1 - 0.5 / zoom) - 0.5 / zoom));
    const zoomed = zoom > 1 ? `scale(${zoom}) translate(${across}%, ${down}%)` : "none";
    const looks = { "--zoom": zoom, "--zoomed": zoomed, "--labels": state.labels, "--heat": 1 - state.photo };
    for (const [name, value] of Object.entries(looks))
      if (root.style.getPropertyValue(name) !== String(value)) root.style.setProperty(name, value);
    light(region?.k);
  }
  /** Light a class up on the picture; none where k is undefined. */
  function light(k) {
    const veils = palette.map((_, other) => (other === k ? [255, 255, 255, 90] : [0, 0, 0, 150]));
    parts.lit.hidden = k === undefined;
    if (k < classes.length) paint(parts.lit, header.arrays.labels.shape, arrays.labels, packed(veils));
    else if (k !== undefined) paint(parts.lit, [h, w], maps.labels, packed(veils)); // a class of cells alone
  }
  function drawControls() {
    root.classList.toggle("ccnet-large", state.large);
    for (const button of choices)
      button.setAttribute("aria-pressed", String(String(state[button.dataset.act]) === button.dataset.value));
    for (const slider of sliders) {
      if (+slider.value !== state[slider.name]) slider.value = state[slider.name];
      slider.disabled = slider.name === "clip" && state.scale !== "clipped";
    }
  }
  /** A heading, and a bar for each of the largest shares; a tick where `chance` would end it. */
  const bars = (heading, shares, say, chance) => html`<section><h3>${heading}</h3>${leading(shares).map(k => html`
    <div class="ccnet-bar"><u style="background:${colours[k]}"></u><span title="${names[k]}">${names[k]}</span>
      <b><s style="width:${100 * shares[k]}%"></s>${chance ? html`<q style="left:${100 * chance[k]}%"></q>` : ""}</b>
      <i>${say(shares[k])}</i>${chance ? html`<em>by chance ${percent(chance[k])}</em>` : ""}</div>`)}</section>`;
  /** What each pixel is taken for and what its map says; for screen readers after a rest. */
  function drawFacts() {
    const { subjects } = shown, verb = state.kind === "attention" ? "looks at" : "is heard by";
    const facts = subjects.map(({ name, cell, likely, maps }, n) => {
      const { mass, chance } = maps[recurrences.indexOf(state.recurrence)];
      const letter = subjects.length > 1 ? `${"AB"[n]}: ` : "";
      const taken = cell ? bars(`${letter}${name} is taken for`, likely, share => share.toFixed(2)) : "";
      const heading = `${letter}with R = ${state.recurrence} ${cell ? "it" : name} ${verb}`;
      return [taken, mass ? bars(heading, mass, percent, chance) : bars(`${heading}: no map here`, [])];
    });
    parts.facts.innerHTML = html`${facts}`;
    parts.facts.classList.toggle("ccnet-two", subjects.length > 1);
    clearTimeout(speaking);
    speaking = setTimeout(() => {
      parts.live.textContent = subjects.map(({ name, likely = [], maps }) => {
        const { mass = [] } = maps[recurrences.indexOf(state.recurrence)];
        const first = leading(likely, 1).map(k => `: ${classes[k]} ${likely[k].toFixed(2)}`);
        return `${name}${first}, ${verb} ${leading(mass, 2).map(k => `${names[k]} ${percent(mass[k])}`).join(", ")}`;
      }).join("; ");
    }, 400);
  }
  /** The table of the classes, where it is open and not yet there. */
  function drawMatrix() {
    const { matrix, table } = parts, asked = `${state.recurrence} ${state.kind}`;
    if (!matrix.open || table.dataset.of === asked || (header.tabulate && !maps.whole)) return;
    table.dataset.of = asked;
    table.textContent = "This picture has too many cells for the whole matrix in a page.";
    if (!maps.whole) return;
    const found = matrixOf(), cell = (share, chance) =>
      html`<td title="by chance ${percent(chance)}" style="--share:${Math.round(85 * share)}%">${percent(share)}</td>`;
    const titles = found.map(({ k }) => html`<th>${names[k]}</th>`);
    table.innerHTML = html`<table><thead><tr><th>of … with R = ${state.recurrence}</th>${titles}</tr></thead>
      <tbody>${found.map(({ k, mass, chance }) => html`<tr><th>${names[k]}</th>${
        found.map(({ k: other }) => cell(mass[other], chance[other]))}</tr>`)}</tbody></table>`;
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
  /** Where an event is in an element, by shares of its sides. */
  function shareOf({ clientX, clientY }, element) {
    const { left, top, width, height } = element.getBoundingClientRect();
    return [(clientX - left) / width, (clientY - top) / height];
  }
  /** The image pixel under an event, within the picture. */
  function under(event, layers = parts.layers) {
    const [x, y] = shareOf(event, layers);
    return { x: clamp(Math.floor(x * width), 0, width - 1), y: clamp(Math.floor(y * height), 0, height - 1) };
  }
  /** Let the pixel follow the pointer. */
  function follow(event) {
    const { x, y } = under(event);
    if (x === state.x && y === state.y) return;
    change({ x, y }, 200);
    milliseconds = performance.now() - event.timeStamp;
  }
  /** Zoom the picture, and lay a place of it (shares of its sides) under an event. */
  function hold(place, event, zoom = state.zoom) {
    const spot = shareOf(event, stage), bounded = clamp(zoom, 1, 12);
    change({ zoom: bounded, centre: place.map((at, n) => at + (0.5 - spot[n]) / bounded) });
  }
  /** Zoom around the middle; from the whole picture, around the pixel on show. */
  function zoomed(factor) {
    const centre = state.zoom > 1 ? state.centre : [state.x / width, state.y / height];
    return { zoom: clamp(state.zoom * factor, 1, 12), centre };
  }
  /** Go some cells to the right and down. */
  function step(right, down) {
    const [i, j] = pixel(state).cell;
    const middle = (cell, cells, pixels) => Math.floor(((clamp(cell, 0, cells - 1) + 0.5) * pixels) / cells);
    const x = middle(j + right, w, width), y = middle(i + down, h, height);
    return { x, y, pinned: true, mode: "pixel", region: null, centre: [x / width, y / height] };
  }
  /** What a press does on the picture that is no drag. */
  function press(event) {
    const { x, y } = under(event);
    if (event.shiftKey || state.placing) return { second: { x, y }, placing: false };
    if (state.mode === "class") return acts.class(maps.labels[pixel({ x, y }).cells[0]]);
    return state.mode === "pixel" ? { x, y, pinned: true } : {};
  }
  /** What a button or key does: what it changes in the state. */
  const acts = {
    mode: mode => ({ mode, region: null }),
    recurrence: r => ({ recurrence: +r }),
    class: k => (state.mode === "class" && state.region?.k === +k ? { mode: "pixel", region: null }
      : { mode: "class", region: { k: +k } }),
    compare: () => (state.second ? { second: null } : { placing: !state.placing, mode: "pixel", region: null }),
    large: () => ({ large: !state.large }),
    free: () => FREE,
    pin: () => ({ pinned: !state.pinned }),
    closer: () => zoomed(1.5), farther: () => zoomed(1 / 1.5), whole: () => zoomed(0),
    left: () => step(-1, 0), right: () => step(1, 0), up: () => step(0, -1), down: () => step(0, 1),
  };
  const saves = { copy, png: () => savePicture("png"), svg: () => savePicture("svg") };

  root.addEventListener("click", event => {
    const { act, value } = event.target.closest("button")?.dataset ?? {};
    if (act in saves) saves[act]();
    else if (act) change(acts[act]?.(value) ?? { [act]: value });
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
      shown.subjects.flatMap(({ maps }) => maps).forEach(({ weights }, n) => {
        const layers = figures[n].querySelector(".ccnet-layers"), { cell, cells } = pixel(under(event, layers));
        const on = weights && layers.parentElement.contains(event.target);
        figures[n].querySelector("em").textContent = on ? `cell (${cell.join(", ")}): ${short(weights[cells[0]])}` : "";
      });
    });

  // One finger or button moves the pixel or draws a region, two fingers zoom and move the picture.
  const fingers = new Map(); // the newest event of each that is down
  let down = null, pinch = null; // what the first began, or two
  const touched = event => event.pointerType !== "mouse" && state.mode === "pixel" && !state.placing;
  const apart = (a, b) => Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
  const amid = (a, b) => ({ clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 });
  stage.addEventListener("pointerdown", event => {
    if (event.button || fingers.size > 1) return;
    stage.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, event);
    const [first, second] = fingers.values(), { x, y, pinned, region, zoom } = state;
    if (second) {
      if (down) change(down.before); // the first finger was to move no pixel and to draw no region
      pinch = { place: shareOf(amid(first, second), parts.layers), scale: zoom / Math.max(1, apart(first, second)) };
      down = null;
    } else {
      down = { event, place: shareOf(event, parts.layers), before: { x, y, pinned, region }, dragged: false };
      if (touched(event)) follow(event);
    }
  });
  stage.addEventListener("pointermove", event => {
    if (fingers.has(event.pointerId)) fingers.set(event.pointerId, event);
    const [first, second] = fingers.values();
    if (down && apart(event, down.event) > 4) down.dragged = true;
    if (second) hold(pinch.place, amid(first, second), pinch.scale * apart(first, second));
    else if (down?.dragged && event.shiftKey && state.zoom > 1) hold(down.place, event);
    else if (down?.dragged && state.mode === "region") {
      const [from, to] = [down.event, event].map(at => Object.values(under(at)));
      change({ region: { from, to } });
    } else if (state.mode === "pixel" && (down || !fingers.size) && (!state.pinned || (down && touched(event))))
      follow(event);
  });
  for (const type of ["pointerup", "pointercancel"])
    stage.addEventListener(type, event => {
      fingers.delete(event.pointerId);
      if (down && type === "pointerup" && (!down.dragged || touched(event))) change(press(event));
      down = null;
    });
  stage.addEventListener("touchmove", event => { // the page stays where it is under two fingers
    if (event.touches.length > 1 && event.cancelable) event.preventDefault();
  }, { passive: false });
  stage.addEventListener("wheel", event => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    hold(shareOf(event, parts.layers), event, state.zoom * (event.deltaY < 0 ? 1.2 : 1 / 1.2));
  }, { passive: false });
  stage.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { key } = event, r = recurrences.find(number => String(number) === key);
    if (!r && !(key in KEYS)) return;
    change(r ? acts.recurrence(r) : acts[KEYS[key]]());
    event.preventDefault();
  });

  // -- What can be taken away --

  /** Every number that is shown. */
  function numbers() {
    const { subjects, peak, top } = shown, { model, trained, size, grid } = header;
    const named = shares => Object.fromEntries([...shares].map((share, k) => [names[k], +share.toPrecision(6)]));
    return {
      model, trained_recurrence: trained, size, grid, peak, scale_end: top, direction: state.kind,
      subjects: subjects.map(({ name, cell, cells, likely, maps }) => ({
        name, cell: cell ?? null, cells: cells.length, probabilities: cell ? named(likely) : null,
        maps: maps.map(({ r, weights, sum, cross, mass, chance }) => ({
          recurrence: r,
          ...(weights && { sum, on_cross: cross, class_shares: named(mass), by_chance: named(chance) }),
        })),
      })),
    };
  }
  async function copy() {
    const table = parts.matrix.open && maps.whole ? matrixOf() : undefined;
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
    const side = 280, step = 300, tall = Math.round((side * rise) / run), { subjects } = shown;
    const wide = 10 + step * (1 + recurrences.length), high = 60 + subjects.length * (tall + 60);
    const text = (x, y, words, size = 12, anchor = "middle") =>
      html`<text x="${x}" y="${y}" font-size="${size}" text-anchor="${anchor}">${words}</text>`;
    const picture = (x, y, canvas, width = side, height = tall) => html`<image x="${x}" y="${y}" width="${width}"
      height="${height}" preserveAspectRatio="none" href="${canvas.toDataURL()}"/>`;
    await parts.picture.decode();
    const ground = resized(parts.picture, 2 * run, 2 * rise, !header.sharp), context = ground.getContext("2d");
    Object.assign(context, { globalAlpha: state.labels, imageSmoothingEnabled: false });
    context.drawImage(parts.labels, 0, 0, 2 * run, 2 * rise);
    const drawn = subjects.map(({ box, cell, x, y, maps }, n) => {
      const ring = (colour, line) => html`<circle cx="${10 + (side * (x + 0.5)) / width}"
        cy="${40 + (tall * (y + 0.5)) / height}" r="6" fill="none" stroke="${colour}" stroke-width="${line}"/>`;
      const columns = maps.map(({ r, weights }, at) => {
        const left = 10 + (at + 1) * step, top = 40 + n * (tall + 60), larger = Math.ceil(560 / w);
        const figure = figures[n * recurrences.length + at], note = figure.querySelector("figcaption span").textContent;
        return weights && [
          picture(left, top, resized(figure.querySelector("canvas"), w * larger, h * larger, false)),
          box && html`<rect x="${left + side * box.left}" y="${top + tall * box.top}"
            width="${side * box.width}" height="${tall * box.height}" fill="none" stroke="white"/>`,
          text(left + side / 2, top - 8, `R = ${r}`),
          text(left + side / 2, top + tall + 18, note, 11),
        ];
      });
      return [cell && [ring("black", 4), ring("white", 2)], columns];
    });
    const all = subjects.map(({ name }) => name).join(" and ");
    const look = subjects.length > 1 || all.startsWith("all") ? "look" : "looks";
    const words = state.kind === "attention" ? `what ${all} ${look} at` : `who listens to ${all}`;
    const end = `${parts.high.textContent}${state.scale === "log" ? ", logarithmic" : ""}`;
    return html`<svg xmlns="http://www.w3.org/2000/svg" width="${wide}" height="${high}" viewBox="0 0 ${wide} ${high}"
      font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>
      ${text(10 + side / 2, 32, "labels")}${picture(10, 40, ground)}${drawn}
      ${text(wide / 2, 16, `${header.model}, trained at R = ${header.trained}: ${words}`, 13)}
      ${text(4 + step, high - 17, parts.low.textContent, 10, "end")}
      ${picture(10 + step, high - 26, parts.gradient, 200, 10)}${text(216 + step, high - 17, end, 10, "start")}</svg>`;
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
    ccnetMap: (i, j, r, kind = "attention") => Float32Array.from(maps.of([i * w + j], r, kind)),
    ccnetState: () => ({ ...state, ...numbers(), milliseconds }),
    ccnetShow: changes => change(changes),
  });
  refresh();
  el.replaceChildren(root);
  for (const step of header.tabulate ? maps.steps : []) // the host makes them beside the page
    model.tabulate(arrays[`query${step}`], arrays[`key${step}`], ...header.grid)
      .then(table => { arrays[`attention${step}`] = table; maps.kept.clear(); refresh(); });
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
  const acts = Object.fromEntries(SHARED.map(name => [`change:${name}`, () => shown?.adopt(name)]));
  acts["change:payload"] = async () => {
    const turn = ++newest, loaded = await fetched(model.get("payload")).then(decoded).catch(error => error);
    if (turn !== newest) return;
    kept = shown?.state ?? kept;
    shown?.close();
    shown = null;
    try {
      if (loaded instanceof Error) throw loaded.constructor === Error ? loaded : new Error(DAMAGED);
      shown = view(el, model, loaded, kept);
    } catch (error) {
      const why = `the view cannot be shown (${error}); make or save it again`;
      el.innerHTML = html`<p class="ccnet-problem" role="alert" data-ccnet-viewer>${
        error.constructor === Error ? error.message : why}</p>`;
    }
  };
  for (const [event, act] of Object.entries(acts)) model.on(event, act);
  acts["change:payload"]();
  return () => {
    newest++;
    shown?.close();
    for (const [event, act] of Object.entries(acts)) model.off?.(event, act);
  };
}

export default { render };
