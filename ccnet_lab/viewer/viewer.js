// Criss-cross attention maps that follow the pointer: one view, three hosts (a notebook's widget, the app, a page
// of its own). A host needs model.get, set, save_changes and on; what is shown comes from payload.py, how from viewer.css.
// Axes: K classes, H W image, h w feature cells, R recurrences; a cell is i * w + j, a map one number for each.

/** @typedef {{table?: Float32Array, query?: Float32Array, key?: Float32Array}} Step attention (hw, h + w), or both (hw, d) */
/** @typedef {{i: number, j: number, k: number}} Place a cell and its class */

// ---- The payload: a header in JSON, then arrays ----

const MAGIC = "CCNV", DAMAGED = "the view's data is damaged or cut short; save or make it again";
const HALVES = new Float32Array(1 << 16); // every float16, filled on first use

/** @param {Uint16Array} bits */
function fromHalves(bits) {
  if (HALVES[0x3c00] !== 1)
    for (let n = 0; n < HALVES.length; n++) {
      const exponent = (n >> 10) & 31, fraction = (n & 1023) / 1024, sign = n >> 15 ? -1 : 1;
      const finite = exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction;
      HALVES[n] = sign * (exponent < 31 ? finite : fraction ? NaN : Infinity);
    }
  return Float32Array.from(bits, n => HALVES[n]);
}

/** The bytes of a payload from an address, a DataView or an array, unpacked if they are gzipped. */
async function fetched(source) {
  if (typeof source === "string") {
    const answer = await fetch(source);
    if (!answer.ok) throw new Error(`the view is no longer on the server (${answer.status}); load the page again`);
    source = await answer.arrayBuffer();
  }
  if (!source?.byteLength) throw new Error("the view is empty; make it again with view.widget() or view.save_html()");
  const data = source.buffer ? new Uint8Array(source.buffer, source.byteOffset, source.byteLength) : new Uint8Array(source);
  if (data[0] !== 0x1f || data[1] !== 0x8b) return data;
  if (typeof DecompressionStream === "undefined")
    throw new Error("this browser has no DecompressionStream to unpack the view with; open it in one from 2023 or later");
  const unpacked = new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(unpacked).arrayBuffer().catch(() => { throw new Error(DAMAGED); }));
}

/** The header and the arrays by name; float16 becomes Float32Array. @param {Uint8Array} bytes */
function decoded(bytes) {
  const data = bytes.slice().buffer; // aligned
  if (new TextDecoder().decode(bytes.subarray(0, 4)) !== MAGIC || data.byteLength < 8) throw new Error(DAMAGED);
  const length = new DataView(data).getUint32(4, true), types = { float16: Uint16Array, float32: Float32Array, uint8: Uint8Array };
  const arrays = /** @type {any} */ ({});
  let header;
  try { header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))); } catch { throw new Error(DAMAGED); }
  for (const [name, { dtype, shape, offset }] of Object.entries(header.arrays)) {
    const size = shape.reduce((a, b) => a * b, 1), start = 8 + length + offset;
    if (start + size * types[dtype].BYTES_PER_ELEMENT > data.byteLength) throw new Error(DAMAGED);
    const values = new types[dtype](data, start, size);
    arrays[name] = dtype === "float16" ? fromHalves(/** @type {any} */ (values)) : values;
    if (name.startsWith("attention")) arrays[name] = arrays[name].map(weight => weight / header.scaled);
    if (dtype !== "uint8" && arrays[name].some(value => !Number.isFinite(value)))
      throw new Error(`the view's array ${name} holds NaN or infinity; look at the picture again with weights that are finite`);
  }
  return { header, arrays };
}

// ---- Maps: no DOM from here to the viewer; the same answers as explore/maps.py ----

// Four at a time, which a browser computes in two thirds of the time.
function add(out, at, count, values, from, share) {
  const end = at + count;
  for (; at + 3 < end; at += 4, from += 4) {
    out[at] += share * values[from]; out[at + 1] += share * values[from + 1];
    out[at + 2] += share * values[from + 2]; out[at + 3] += share * values[from + 3];
  }
  for (; at < end; at++, from++) out[at] += share * values[from];
}

function dot(weights, at, count, values, from) {
  const end = at + count;
  let a = 0, b = 0, c = 0, d = 0;
  for (; at + 3 < end; at += 4, from += 4) {
    a += weights[at] * values[from]; b += weights[at + 1] * values[from + 1];
    c += weights[at + 2] * values[from + 2]; d += weights[at + 3] * values[from + 3];
  }
  for (; at < end; at++, from++) a += weights[at] * values[from];
  return a + b + c + d;
}

class Maps {
  /** @param {number} h @param {number} w @param {Step[]} steps first step first @param {Uint8Array} labels of cells */
  constructor(h, w, steps, labels, classes) {
    Object.assign(this, { h, w, steps, labels, classes });
    this.h = h; this.w = w; this.steps = steps; this.labels = labels;
    this.start = 0; // where the row that `row` returned begins
    this.scratch = new Float64Array(h + w);
    this.inRow = new Float64Array(h * classes); this.inColumn = new Float64Array(w * classes);
    this.inAll = new Float64Array(classes);
    labels.forEach((k, cell) => {
      this.inRow[((cell / w) | 0) * classes + k]++; this.inColumn[(cell % w) * classes + k]++; this.inAll[k]++;
    });
    this.classes = classes;
  }

  /** Whether a map can be had within a frame: without the steps' tables only near the pixel's cross. */
  quick(recurrence, kind) {
    return !!this.steps[0].table || recurrence <= (kind === "listeners" ? 1 : 2);
  }

  /** The attention of a cell over its cross, from `this.start` in the array: h column entries, then w row entries. */
  row(step, cell) {
    const { h, w, scratch } = this, { table, query, key } = this.steps[step];
    this.start = table ? cell * (h + w) : 0;
    if (table) return table;
    const depth = query.length / (h * w), i = (cell / w) | 0, j = cell % w, from = cell * depth;
    let top = -Infinity, sum = 0;
    for (let n = 0; n < h + w; n++) {
      const other = n < h ? n * w + j : i * w + n - h;
      let score = n === i ? -Infinity : 0; // its own column entry
      for (let c = 0, to = other * depth; c < depth && n !== i; c++) score += query[from + c] * key[to + c];
      scratch[n] = score;
      if (score > top) top = score;
    }
    for (let n = 0; n < h + w; n++) sum += scratch[n] = Math.exp(scratch[n] - top);
    for (let n = 0; n < h + w; n++) scratch[n] /= sum;
    return scratch;
  }

  /** The row vector `weights` times a step's attention. @param {Float64Array} weights */
  pulled(weights, step) {
    const { h, w } = this, across = new Float64Array(h * w), down = new Float64Array(h * w); // down is transposed
    for (let cell = 0, i = 0; i < h; i++)
      for (let j = 0; j < w; j++, cell++) {
        const share = weights[cell];
        if (!share) continue;
        const row = this.row(step, cell);
        add(down, j * h, h, row, this.start, share);
        add(across, i * w, w, row, this.start + h, share);
      }
    for (let i = 0; i < h; i++) for (let j = 0; j < w; j++) across[i * w + j] += down[j * h + i];
    return across;
  }

  /** A step's attention times the column vector `weights`. @param {Float64Array} weights */
  gathered(weights, step) {
    const { h, w } = this, out = new Float64Array(h * w), turned = new Float64Array(h * w);
    const rows = new Uint8Array(h), columns = new Uint8Array(w); // where there is anything to gather
    for (let i = 0, cell = 0; i < h; i++)
      for (let j = 0; j < w; j++, cell++) if (weights[cell]) { rows[i] = columns[j] = 1; turned[j * h + i] = weights[cell]; }
    for (let i = 0, cell = 0; i < h; i++)
      for (let j = 0; j < w; j++, cell++) {
        if (!rows[i] && !columns[j]) continue;
        const row = this.row(step, cell);
        if (columns[j]) out[cell] += dot(turned, j * h, h, row, this.start);
        if (rows[i]) out[cell] += dot(weights, i * w, w, row, this.start + h);
      }
    return out;
  }

  /** The mean map of some cells for each R: what they look at, or who listens to them. @param {number[]} cells */
  of(cells, recurrences, kind) {
    const even = new Float64Array(this.h * this.w), most = Math.max(...recurrences);
    for (const cell of cells) even[cell] = 1 / cells.length;
    if (kind === "attention")
      return recurrences.map(recurrence => {
        let weights = even;
        for (let step = recurrence - 1; step >= 0; step--) weights = this.pulled(weights, step);
        return weights;
      });
    const heard = [even]; // of R = 0, 1, ...
    for (let step = 0; step < most; step++) heard.push(this.gathered(heard[step], step));
    return recurrences.map(recurrence => heard[recurrence]);
  }

  /** The share of a map's mass by class, and what features that are the same everywhere would give these cells. */
  shares(weights, cells, recurrence) {
    const { h, w, classes } = this, mass = new Float64Array(classes), chance = new Float64Array(classes), n = h + w - 1;
    let sum = 0, [a, b, c, d] = [1, 0, 0, 0]; // powers of the uniform attention, as in maps.uniform_map
    weights.forEach((value, cell) => { mass[this.labels[cell]] += value; sum += value; });
    for (let step = 0; step < recurrence; step++) [a, b, c, d] = [-a, a + (w - 1) * b, a + (h - 1) * c, b + c + n * d];
    for (const cell of cells) {
      const i = (cell / w) | 0, j = cell % w;
      chance[this.labels[cell]] += a;
      for (let k = 0; k < classes; k++)
        chance[k] += b * this.inRow[i * classes + k] + c * this.inColumn[j * classes + k] + d * this.inAll[k];
    }
    return { mass: mass.map(v => v / (sum || 1)), chance: chance.map(v => v / (cells.length * n ** recurrence)), sum };
  }

  /** The share of a map's mass in row i and column j. */
  onCross(weights, i, j) {
    let cross = -weights[i * this.w + j], sum = 0;
    weights.forEach((value, cell) => {
      sum += value;
      if (((cell / this.w) | 0) === i) cross += value;
      if (cell % this.w === j) cross += value;
    });
    return sum ? cross / sum : 0;
  }
}

/** (K,) softmax at pixel (x, y) of logits (K, h, w), upsampled bilinearly to H x W. */
function probabilities(logits, classes, [h, w], [height, width], x, y) {
  const axis = (at, cells, pixels) => {
    const place = Math.max(((at + 0.5) * cells) / pixels - 0.5, 0), low = Math.min(Math.floor(place), cells - 1);
    return [low, Math.min(low + 1, cells - 1), place - low];
  };
  const [top, bottom, v] = axis(y, h, height), [left, right, u] = axis(x, w, width);
  const found = new Float64Array(classes).map((_, k) => {
    const at = (i, j) => logits[(k * h + i) * w + j];
    return (1 - v) * ((1 - u) * at(top, left) + u * at(top, right)) + v * ((1 - u) * at(bottom, left) + u * at(bottom, right));
  });
  const most = Math.max(...found), powers = found.map(value => Math.exp(value - most)), sum = powers.reduce((a, b) => a + b);
  return powers.map(value => value / sum);
}

// ---- Small helpers of the page ----

/** @returns {any} an element with properties, attributes (those with a dash, and role) and children; strings are text */
function make(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options))
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  made.append(...children);
  return made;
}

const percent = share => `${(100 * share).toFixed(share >= 0.0995 || share === 0 ? 0 : 1)} %`;
const short = value => (value === 0 ? "0" : value >= 0.001 ? String(+value.toPrecision(2)) : value.toExponential(0));
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const rgb = colour => `rgb(${colour.join(",")})`;
const escaped = text => String(text).replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);

/** A row of buttons of which one is pressed. @returns {any} */
function choice(label, options, chosen, choose) {
  const buttons = options.map(([value, text, title]) =>
    make("button", { type: "button", title, onclick: () => choose(value), "data-value": value }, text));
  const group = make("div", { className: "ccnet-choice", role: "group", "aria-label": label }, ...buttons);
  group.show = value => buttons.forEach(b => b.setAttribute("aria-pressed", String(b.dataset.value === String(value))));
  group.show(chosen);
  return group;
}

/** A labelled slider from 0 to 1. @returns {any} */
function slider(label, value, change) {
  const input = make("input", { type: "range", min: 0, max: 1, step: 0.01, value, oninput: () => change(+input.value) });
  return make("label", { className: "ccnet-slider", "data-slider": label }, label, input);
}

/** Offer a file for saving. @param {Blob} blob @param {string} name */
function save(blob, name) {
  const href = URL.createObjectURL(blob);
  make("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
}

const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const SHARED = ["x", "y", "recurrence", "clip", "labels", "photo"]; // what a host may read and set
const HELP = "move: the map follows · click: pin · Shift+click: compare · Esc: free · arrows: a cell · 1 2 3: R · L: one large · + −: zoom";

// ---- The viewer ----

class Viewer {
  constructor(el, model, { header, arrays }, kept) {
    this.model = model; this.header = header; this.arrays = arrays;
    const [h, w] = header.grid;
    const steps = header.recurrences.length ? Array.from({ length: Math.max(...header.recurrences) }, (_, n) => ({
      table: arrays[`attention${n + 1}`], query: arrays[`query${n + 1}`], key: arrays[`key${n + 1}`],
    })) : [];
    this.names = [...header.classes, ...(arrays.marked ? [header.marked] : [])]; // of the cells' labels
    this.maps = new Maps(h, w, steps, arrays.cell_labels, this.names.length);
    const initial = name => model.get(name) ?? header[name];
    this.state = {
      kind: "attention", scale: "clipped", mode: "pixel", second: null, region: null, large: false,
      zoom: 1, centre: [0.5, 0.5], ...kept, pinned: !!model.get("pinned"), ...Object.fromEntries(SHARED.map(name => [name, initial(name)])),
    };
    this.busy = new Map(); // maps that the server computes, by what was asked
    this.milliseconds = 0; // from the last move of the pointer to its maps
    this.build(el);
    this.listen();
    this.refresh();
  }

  // -- what is asked --

  cellOf(x, y) {
    const [height, width] = this.header.size, { h, w } = this.maps;
    return { i: Math.min(Math.floor(((y + 0.5) * h) / height), h - 1), j: Math.min(Math.floor(((x + 0.5) * w) / width), w - 1) };
  }

  /** The cells the map is of, what they are called, and their place where it is one pixel. */
  subject() {
    const { mode, region, x, y } = this.state, { h, w, labels } = this.maps, cells = [];
    if (mode === "class" && region?.k !== undefined) {
      labels.forEach((k, cell) => k === region.k && cells.push(cell));
      if (cells.length) return { cells, name: `all ${cells.length} cells of ${this.names[region.k]}` };
    }
    if (mode === "region" && region?.from) {
      const a = this.cellOf(...region.from), b = this.cellOf(...region.to);
      for (let i = Math.min(a.i, b.i); i <= Math.max(a.i, b.i); i++)
        for (let j = Math.min(a.j, b.j); j <= Math.max(a.j, b.j); j++) cells.push(i * w + j);
      return { cells, name: `a region of ${Math.abs(a.j - b.j) + 1} × ${Math.abs(a.i - b.i) + 1} cells` };
    }
    return { ...this.subjectAt(x, y), name: `pixel (${x}, ${y})` };
  }

  subjectAt(x, y) {
    const { i, j } = this.cellOf(x, y);
    return { cells: [i * this.maps.w + j], i, j, x, y, name: `pixel (${x}, ${y})` };
  }

  /** The maps of a subject for each R of the header; null where the server has still to answer. */
  mapsOf(subject) {
    const { kind, pinned, x, y } = this.state, quick = [], found = {};
    for (const r of this.header.recurrences) if (this.maps.quick(r, kind) || subject.cells.length < 1) quick.push(r);
    if (subject.i === undefined && !this.maps.steps[0]?.table) return this.header.recurrences.map(() => null);
    this.maps.of(subject.cells, quick, kind).forEach((weights, n) => (found[quick[n]] = weights));
    return this.header.recurrences.map(r => found[r] ?? (pinned ? this.exact(subject, r, kind) : null));
  }

  /** A map that only the server can compute: null until it comes. */
  exact({ x, y }, recurrence, kind) {
    const asked = [x, y, recurrence, kind].join();
    if (!this.busy.has(asked) && this.model.exact) {
      this.busy.set(asked, null);
      this.model.exact(x, y, recurrence, kind).then(values => { this.busy.set(asked, Float64Array.from(values)); this.refresh(); });
    }
    return this.busy.get(asked) ?? null;
  }

  // -- what is built once --

  build(el) {
    const { header, arrays, state } = this, [height, width] = header.frame;
    this.frames = [];
    this.photo = URL.createObjectURL(new Blob([arrays.picture], { type: header.picture_type }));
    const set = (name, value) => { this.state[name] = value; this.share(); this.refresh(); };
    this.set = set;
    this.labels = make("canvas", { className: "ccnet-labels" });
    this.lit = make("canvas", { className: "ccnet-lit" });
    this.markers = [make("div", { className: "ccnet-cell" }), make("div", { className: "ccnet-point" }),
      make("div", { className: "ccnet-point ccnet-second" }), make("div", { className: "ccnet-rectangle" })];
    const picture = make("img", { src: this.photo, alt: header.alt, draggable: false });
    this.stage = this.frame("ccnet-stage", picture, this.labels, this.lit, ...this.markers);
    Object.assign(this.stage, { tabIndex: 0 });
    this.stage.setAttribute("role", "application");
    this.stage.setAttribute("aria-label", `${header.alt} with its labels. ${HELP}`);
    this.drawLabels();
    this.rows = [0, 1].map(n => this.buildRow(n));
    this.gradient = make("canvas", { width: 256, height: 1 });
    const line = this.gradient.getContext("2d"), ramp = line.createImageData(256, 1);
    for (let n = 0; n < 256; n++) ramp.data.set([...arrays.scale.subarray(3 * n, 3 * n + 3), 255], 4 * n);
    line.putImageData(ramp, 0, 0);
    this.low = make("i"); this.high = make("i"); this.cut = make("span");
    this.groups = {
      kind: choice("direction", [["attention", "looks at", "what the pixel looks at"],
        ["listeners", "who listens", "how much every other pixel takes from it"]], state.kind, v => set("kind", v)),
      scale: choice("colour scale", [["raw", "raw", "from 0 to the peak"], ["clipped", "clipped", "the scale ends where the slider says"],
        ["log", "log", "four powers of ten below the peak"]], state.scale, v => set("scale", v)),
      mode: choice("of what", [["pixel", "pixel", "one pixel"], ["region", "region", "drag a rectangle: the mean of its cells"],
        ["class", "class", "click a class: the mean of all its cells"]], state.mode, v => this.chooseMode(v)),
    };
    const sliders = [["labels", "labels"], ["photo", "photo under maps"], ["clip", "clip"]].map(([name, text]) => {
      const made = slider(text, state[name], value => set(name, value));
      this[`${name}Slider`] = made.querySelector("input");
      return made;
    });
    this.likely = make("section"); this.looks = make("section");
    this.live = make("div", { className: "ccnet-hidden", role: "status", "aria-live": "polite" });
    this.matrix = make("details", { className: "ccnet-matrix", ontoggle: () => this.refresh() },
      make("summary", {}, "Class by class: where each class looks"), make("div"));
    const button = (text, title, act) => make("button", { type: "button", title, onclick: act }, text);
    this.said = make("span", { role: "status" });
    const actions = make("div", { className: "ccnet-actions" },
      button("Copy numbers", "everything shown, as JSON", () => this.copy()),
      button("PNG", "save what is shown", () => this.savePicture("png")), button("SVG", "save with text as text", () => this.savePicture("svg")),
      button("−", "zoom out", () => this.zoom(1 / 1.5)), button("+", "zoom in; Shift and drag moves", () => this.zoom(1.5)), this.said);
    this.legend = make("div", { className: "ccnet-legend" });
    this.buildLegend();
    this.root = make("div", { className: "ccnet-viewer", "data-ccnet-viewer": "" },
      ...(header.title ? [make("p", { className: "ccnet-title" }, header.title)] : []),
      make("div", { className: "ccnet-main" },
        make("div", { className: "ccnet-left" }, this.stage, this.legend),
        make("div", { className: "ccnet-right" }, ...this.rows.map(row => row.element),
          make("div", { className: "ccnet-scale" }, this.low, this.gradient, this.high, this.cut),
          make("div", { className: "ccnet-controls" }, ...Object.values(this.groups)),
          make("div", { className: "ccnet-controls" }, ...sliders),
          make("div", { className: "ccnet-facts" }, this.likely, this.looks))),
      this.matrix, actions, make("p", { className: "ccnet-help" }, HELP), this.live);
    this.root.style.setProperty("--ratio", `${width} / ${height}`);
    this.root.style.setProperty("--stage", `${width}px`);
    this.root.classList.toggle("ccnet-sharp", header.sharp);
    const answer = { ccnetMap: (i, j, r, kind = "attention") => Float32Array.from(this.maps.of([i * this.maps.w + j], [r], kind)[0]),
      ccnetShow: changes => { Object.assign(this.state, changes); this.share(); this.refresh(); },
      ccnetState: () => ({ ...this.state, ...this.numbers(), milliseconds: this.milliseconds }) };
    Object.assign(this.root, answer);
    el.replaceChildren(this.root);
  }

  /** A frame whose layers zoom and move together with those of all frames. */
  frame(name, ...layers) {
    const inner = make("div", { className: "ccnet-layers" }, ...layers);
    this.frames.push(inner);
    return make("div", { className: `ccnet-frame ${name}` }, inner);
  }

  /** The maps of a subject: a figure for each R. */
  buildRow(n) {
    const { h, w } = this.maps, name = make("p", { className: "ccnet-name" });
    const panels = this.header.recurrences.map(recurrence => {
      const canvas = make("canvas", { className: "ccnet-heat", width: w, height: h, role: "img", "aria-label": `attention map, R = ${recurrence}` });
      const cell = make("div", { className: "ccnet-cell" }), wait = make("p", { className: "ccnet-wait" });
      const ground = make("img", { src: this.photo, alt: "", draggable: false });
      const caption = make("button", { type: "button", title: "show the facts for this R", onclick: () => this.set("recurrence", recurrence) }, `R = ${recurrence}`);
      const note = make("span"), value = make("em");
      const frame = this.frame("ccnet-map", ground, canvas, cell);
      frame.append(wait);
      frame.addEventListener("pointermove", event => {
        const at = this.place(event, frame), panel = panels.find(p => p.recurrence === recurrence);
        const c = this.cellOf(at.x, at.y), weight = panel.weights?.[c.i * w + c.j];
        value.textContent = weight === undefined ? "" : `cell (${c.i}, ${c.j}): ${short(weight)}`;
      });
      frame.addEventListener("pointerleave", () => (value.textContent = ""));
      const figure = make("figure", { "data-recurrence": recurrence }, frame, make("figcaption", {}, caption, note, value));
      const image = canvas.getContext("2d").createImageData(w, h);
      image.data.fill(255);
      return { recurrence, canvas, image, cell, wait, caption, note, figure, weights: /** @type {any} */ (null) };
    });
    return { name, panels, element: make("div", { className: "ccnet-row" }, name, ...panels.map(panel => panel.figure)), hidden: n > 0 };
  }

  buildLegend() {
    const { header, arrays } = this, counts = new Float64Array(header.classes.length);
    arrays.labels.forEach(k => counts[k]++);
    const order = [...counts.keys()].filter(k => counts[k]).sort((a, b) => counts[b] - counts[a]);
    this.legend.replaceChildren(...order.map(k => {
      const chip = make("button", { type: "button", title: "click: the mean map of its cells", "data-class": String(k),
        onclick: () => this.chooseClass(k), onpointerenter: () => this.light(k), onpointerleave: () => this.light(this.state.region?.k) },
      make("u"), header.classes[k], make("i", {}, percent(counts[k] / arrays.labels.length)));
      chip.firstChild.style.background = rgb(header.palette[k]);
      return chip;
    }));
  }

  /** The labels in their colours, and with a class that one alone, light. */
  drawLabels(canvas = this.labels, only = -1) {
    const { header, arrays } = this, [height, width] = header.arrays.labels.shape;
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d"), image = context.createImageData(width, height);
    arrays.labels.forEach((k, at) => {
      if (only < 0) image.data.set([...header.palette[k], 255], 4 * at);
      else image.data.set(k === only ? [255, 255, 255, 90] : [0, 0, 0, 150], 4 * at);
    });
    context.putImageData(image, 0, 0);
  }

  light(k) {
    this.lit.hidden = k === undefined;
    if (k !== undefined) this.drawLabels(this.lit, k);
  }

  // -- what the visitor does --

  /** The image pixel under the pointer, within the picture. */
  place(event, frame = this.stage) {
    const box = frame.firstElementChild.getBoundingClientRect(), [height, width] = this.header.size;
    return {
      x: clamp(Math.floor(((event.clientX - box.left) / box.width) * width), 0, width - 1),
      y: clamp(Math.floor(((event.clientY - box.top) / box.height) * height), 0, height - 1),
    };
  }

  listen() {
    const { stage, state } = this;
    let from = null, moved = false;
    stage.addEventListener("pointerdown", event => {
      from = event; moved = false;
      if (event.pointerType !== "mouse" || state.mode === "region" || event.shiftKey) stage.setPointerCapture(event.pointerId);
      if (event.pointerType !== "mouse" && state.mode === "pixel") this.move(event, true);
    });
    stage.addEventListener("pointermove", event => {
      const drags = from && Math.hypot(event.clientX - from.clientX, event.clientY - from.clientY) > 4;
      moved ||= !!drags;
      if (drags && event.shiftKey && state.zoom > 1) this.pan(event.movementX, event.movementY);
      else if (drags && state.mode === "region") {
        const a = this.place(from), b = this.place(event);
        state.region = { from: [a.x, a.y], to: [b.x, b.y] };
        this.refresh();
      } else if (state.mode === "pixel") this.move(event, from && event.pointerType !== "mouse");
    });
    stage.addEventListener("pointerup", event => {
      if (from && !moved) this.click(event);
      else if (from && event.pointerType !== "mouse" && state.mode === "pixel") this.pin(this.place(event));
      from = null;
    });
    stage.addEventListener("pointercancel", () => (from = null));
    stage.addEventListener("keydown", event => this.key(event));
    stage.addEventListener("wheel", event => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      const { x, y } = this.place(event), [height, width] = this.header.size;
      this.zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, [x / width, y / height]);
    }, { passive: false });
    for (const name of SHARED) this.model.on(`change:${name}`, () => {
      const value = this.model.get(name);
      if (value === undefined || value === null || value === state[name]) return;
      state[name] = name === "x" || name === "y" ? clamp(Math.round(value), 0, this.header.size[name === "x" ? 1 : 0] - 1) : value;
      this.refresh();
    });
  }

  move(event, always = false) {
    if (this.state.pinned && !always) return;
    const { x, y } = this.place(event);
    if (x === this.state.x && y === this.state.y) return;
    Object.assign(this.state, { x, y });
    this.refresh();
    this.milliseconds = performance.now() - event.timeStamp;
    this.share(200);
  }

  click(event) {
    const at = this.place(event);
    if (event.shiftKey) this.set("second", at);
    else if (this.state.mode === "class") this.chooseClass(this.maps.labels[this.subjectAt(at.x, at.y).cells[0]]);
    else if (this.state.mode === "pixel") this.pin(at);
  }

  pin({ x, y }) {
    Object.assign(this.state, { x, y, pinned: true });
    this.share();
    this.refresh();
  }

  key(event) {
    const { state } = this, step = KEYS[event.key], [height, width] = this.header.size;
    const r = this.header.recurrences.find(n => String(n) === event.key);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (step) {
      const { h, w } = this.maps, { i, j } = this.cellOf(state.x, state.y);
      const middle = (cell, cells, pixels) => Math.min(Math.floor(((clamp(cell, 0, cells - 1) + 0.5) * pixels) / cells), pixels - 1);
      this.pin({ x: middle(j + step[0], w, width), y: middle(i + step[1], h, height) });
    } else if (event.key === "Escape") {
      Object.assign(state, { pinned: false, second: null, region: null, mode: "pixel" });
      this.set("large", false);
    } else if (event.key === "Enter" || event.key === " ") this.set("pinned", !state.pinned);
    else if (r) this.set("recurrence", r);
    else if (event.key.toLowerCase() === "l") this.set("large", !state.large);
    else if ("+=-0".includes(event.key)) this.zoom(event.key === "0" ? 1e-9 : event.key === "-" ? 1 / 1.5 : 1.5);
    else return;
    event.preventDefault();
  }

  chooseMode(mode) {
    this.state.region = null;
    this.set("mode", mode);
  }

  chooseClass(k) {
    const same = this.state.mode === "class" && this.state.region?.k === k;
    Object.assign(this.state, { mode: same ? "pixel" : "class" });
    this.set("region", same ? null : { k });
  }

  zoom(factor, centre) {
    const { state } = this, [height, width] = this.header.size;
    if (centre || state.zoom === 1) state.centre = centre ?? [state.x / width, state.y / height];
    this.set("zoom", clamp(state.zoom * factor, 1, 12));
  }

  pan(dx, dy) {
    const box = this.stage.firstElementChild.getBoundingClientRect(), half = 0.5 / this.state.zoom;
    const centre = [this.state.centre[0] - dx / box.width, this.state.centre[1] - dy / box.height];
    this.set("centre", centre.map(at => clamp(at, half, 1 - half)));
  }

  /** Give the host what it shares, after a rest of some milliseconds. */
  share(rest = 0) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      for (const name of SHARED) if (this.model.get(name) !== this.state[name]) this.model.set(name, this.state[name]);
      this.model.save_changes();
    }, rest);
  }

  // -- what is shown --

  refresh() {
    const { state, rows, header, maps } = this, main = this.subject();
    const subjects = [main, ...(state.second ? [this.subjectAt(state.second.x, state.second.y)] : [])];
    const found = subjects.map(subject => this.mapsOf(subject)), all = found.flat().filter(Boolean);
    const peak = all.reduce((top, weights) => weights.reduce((a, b) => (a > b ? a : b), top), 0) || 1e-30;
    const top = state.scale === "clipped" ? peak * 10 ** (-3 * state.clip) : peak, cuts = [];
    this.shown = { subjects, found, peak, top };
    rows.forEach((row, n) => {
      row.element.hidden = n >= subjects.length;
      if (row.element.hidden) return;
      row.name.textContent = subjects.length > 1 ? `${"AB"[n]}: ${subjects[n].name}` : "";
      row.panels.forEach((panel, at) => cuts.push(this.drawPanel(panel, found[n][at], subjects[n], top)));
    });
    this.placeMarkers(main);
    this.low.textContent = state.scale === "log" ? short(peak / 1e4) : "0";
    this.high.textContent = `${top < peak ? "≥ " : ""}${short(top)}`;
    this.cut.textContent = cuts.some(cut => cut > 5e-4) ? `one scale; above its end: ${cuts.map(percent).join(", ")} of the mass` : "one scale; nothing is clipped";
    for (const name of ["kind", "scale", "mode"]) this.groups[name].show(state[name]);
    for (const name of ["labels", "photo", "clip"]) if (+this[`${name}Slider`].value !== state[name]) this[`${name}Slider`].value = state[name];
    this.clipSlider.disabled = state.scale !== "clipped";
    this.root.classList.toggle("ccnet-large", state.large);
    this.root.style.setProperty("--labels", state.labels);
    this.root.style.setProperty("--heat", 1 - state.photo);
    this.light(state.mode === "class" ? state.region?.k : undefined);
    this.showFacts(main, found[0][header.recurrences.indexOf(state.recurrence)] ?? null);
    if (this.matrix.open) this.showMatrix();
  }

  /** Draw a map; returns the share of its mass above the scale's end. */
  drawPanel(panel, weights, subject, top) {
    const { state, arrays, maps } = this, { data } = panel.image, log = state.scale === "log";
    panel.weights = weights;
    panel.figure.classList.toggle("ccnet-chosen", panel.recurrence === state.recurrence);
    panel.caption.setAttribute("aria-pressed", String(panel.recurrence === state.recurrence));
    const absent = state.pinned ? (this.model.exact ? "computing …" : "too large for this page") : "pin a pixel for this map";
    panel.wait.textContent = weights ? "" : absent;
    panel.canvas.hidden = !weights;
    panel.cell.hidden = subject.i === undefined;
    if (!weights) { panel.note.textContent = ""; return 0; }
    let cut = 0, sum = 0;
    for (let cell = 0; cell < weights.length; cell++) {
      const value = weights[cell], share = log ? (Math.log10(value / top) + 4) / 4 : value / top;
      if (value > top) cut += value - top;
      sum += value;
      const at = 3 * clamp(Math.trunc(255 * share) || 0, 0, 255);
      data[4 * cell] = arrays.scale[at]; data[4 * cell + 1] = arrays.scale[at + 1]; data[4 * cell + 2] = arrays.scale[at + 2];
    }
    panel.canvas.getContext("2d").putImageData(panel.image, 0, 0);
    if (subject.i !== undefined) this.box(panel.cell, subject);
    const parts = subject.i === undefined ? [] : [`on the cross ${percent(maps.onCross(weights, subject.i, subject.j))}`];
    if (state.kind === "listeners") parts.push(`it gives ${sum.toFixed(2)}`);
    if (arrays.marked) parts.push(`on ${this.header.marked} ${percent(weights.reduce((a, v, cell) => a + v * arrays.marked[cell], 0) / (sum || 1))}`);
    panel.note.textContent = parts.join(" · ");
    return cut / (sum || 1);
  }

  box(made, { i, j }) {
    const { h, w } = this.maps;
    Object.assign(made.style, { left: `${(100 * j) / w}%`, top: `${(100 * i) / h}%`, width: `${100 / w}%`, height: `${100 / h}%` });
  }

  placeMarkers(main) {
    const { state } = this, [height, width] = this.header.size, [cell, point, second, rectangle] = this.markers;
    const at = (made, x, y) => Object.assign(made.style, { left: `${(100 * (x + 0.5)) / width}%`, top: `${(100 * (y + 0.5)) / height}%` });
    cell.hidden = point.hidden = main.i === undefined;
    second.hidden = !state.second;
    rectangle.hidden = !(state.mode === "region" && state.region?.from);
    if (main.i !== undefined) { this.box(cell, main); at(point, state.x, state.y); }
    point.classList.toggle("ccnet-pinned", state.pinned);
    if (state.second) at(second, state.second.x, state.second.y);
    if (!rectangle.hidden) {
      const [a, b] = [state.region.from, state.region.to], left = Math.min(a[0], b[0]), top = Math.min(a[1], b[1]);
      Object.assign(rectangle.style, { left: `${(100 * left) / width}%`, top: `${(100 * top) / height}%`,
        width: `${(100 * (Math.abs(a[0] - b[0]) + 1)) / width}%`, height: `${(100 * (Math.abs(a[1] - b[1]) + 1)) / height}%` });
    }
    const half = 0.5 / state.zoom, [left, top] = state.centre.map(value => clamp(value, half, 1 - half) - half);
    const transform = state.zoom > 1 ? `scale(${state.zoom}) translate(${-100 * left}%, ${-100 * top}%)` : "";
    for (const layers of this.frames) if (layers.style.transform !== transform) layers.style.transform = transform;
    this.root.style.setProperty("--zoom", String(state.zoom));
  }

  bars(section, title, entries) {
    section.replaceChildren(make("h3", {}, title), ...entries.map(({ name, colour, share, text, chance }) => {
      const bar = make("div", { className: "ccnet-bar" }, make("u"), make("span", { title: name }, name), make("b", {}, make("s")), make("i", {}, text),
        ...(chance === undefined ? [] : [make("em", {}, `by chance ${percent(chance)}`)]));
      bar.children[0].style.background = colour;
      bar.querySelector("s").style.width = `${100 * share}%`;
      if (chance !== undefined) {
        const tick = make("q");
        tick.style.left = `${100 * chance}%`;
        bar.children[2].append(tick);
      }
      return bar;
    }));
  }

  /** The largest classes of some shares (K,). */
  largest(shares, most = 4) {
    return [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, most).filter(k => shares[k] >= 0.005);
  }

  showFacts(main, weights) {
    const { header, maps, state } = this, entry = (k, share, text, chance) =>
      ({ name: this.names[k], colour: rgb(header.palette[k]), share, text, chance });
    this.likely.hidden = main.i === undefined;
    const likely = main.i === undefined ? null : probabilities(this.arrays.logits, header.classes.length, header.grid, header.size, main.x, main.y);
    if (likely) this.bars(this.likely, `Pixel (${main.x}, ${main.y}) is taken for`,
      this.largest(likely).map(k => entry(k, likely[k], likely[k].toFixed(2))));
    const verb = state.kind === "attention" ? "looks at" : "is heard by";
    const title = `With R = ${state.recurrence} ${main.i === undefined ? main.name : "it"} ${verb}`;
    if (!weights) return this.bars(this.looks, `${title} …`, []);
    const { mass, chance } = maps.shares(weights, main.cells, state.recurrence);
    this.bars(this.looks, title, this.largest(mass).map(k => entry(k, mass[k], percent(mass[k]), chance[k])));
    clearTimeout(this.speaking);
    this.speaking = setTimeout(() => {
      const first = likely && this.largest(likely, 1)[0], seen = this.largest(mass, 2).map(k => `${this.names[k]} ${percent(mass[k])}`);
      this.live.textContent = `${main.name}${likely ? `: ${header.classes[first]} ${likely[first].toFixed(2)}` : ""}, ${verb} ${seen.join(", ")}`;
    }, 400);
  }

  /** How much of the attention of each class's cells lies on each class, and by chance. */
  matrixOf() {
    const { maps, state, header } = this, present = [...maps.inAll.keys()].filter(k => maps.inAll[k]);
    const rows = present.map(k => {
      const cells = [];
      maps.labels.forEach((label, cell) => label === k && cells.push(cell));
      return maps.shares(maps.of(cells, [state.recurrence], state.kind)[0], cells, state.recurrence);
    });
    return { names: present.map(k => this.names[k]), present, rows };
  }

  showMatrix() {
    const key = `${this.state.recurrence} ${this.state.kind}`, place = this.matrix.lastElementChild;
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    if (!this.maps.steps[0]?.table) return place.replaceChildren("This picture has too many cells for the whole matrix in a page.");
    const { names, present, rows } = this.matrixOf();
    const head = make("tr", {}, make("th", {}, `of … with R = ${this.state.recurrence}`), ...names.map(name => make("th", {}, name)));
    const lines = rows.map(({ mass, chance }, n) => make("tr", {}, make("th", {}, names[n]), ...present.map(k => {
      const cell = make("td", { title: `by chance ${percent(chance[k])}` }, percent(mass[k]));
      cell.style.setProperty("--share", `${Math.round(85 * mass[k])}%`);
      return cell;
    })));
    place.replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines)));
  }

  // -- what can be taken away --

  /** Every number that is shown. */
  numbers() {
    const { header, maps, state } = this, { subjects, found, peak, top } = this.shown;
    const named = shares => Object.fromEntries([...shares].map((value, k) => [this.names[k], +value.toPrecision(6)]));
    return {
      model: header.model, trained_recurrence: header.trained, size: header.size, grid: header.grid, peak, scale_end: top,
      subjects: subjects.map((subject, n) => ({
        name: subject.name, cell: subject.i === undefined ? null : [subject.i, subject.j], cells: subject.cells.length,
        probabilities: subject.i === undefined ? null : named(probabilities(this.arrays.logits, header.classes.length, header.grid, header.size, subject.x, subject.y)),
        maps: header.recurrences.map((recurrence, at) => {
          const weights = found[n][at];
          if (!weights) return { recurrence };
          const { mass, chance, sum } = maps.shares(weights, subject.cells, recurrence);
          return { recurrence, sum, on_cross: subject.i === undefined ? null : maps.onCross(weights, subject.i, subject.j),
            class_shares: named(mass), by_chance: named(chance) };
        }),
      })),
      direction: state.kind,
    };
  }

  async copy() {
    const text = JSON.stringify({ ...this.numbers(), class_by_class: this.matrix.open && this.maps.steps[0]?.table ? this.matrixOf().rows
      .map(({ mass, chance }) => ({ share: [...mass], by_chance: [...chance] })) : undefined }, null, 1);
    try {
      await navigator.clipboard.writeText(text);
      this.said.textContent = "copied";
    } catch { // no secure page, or refused
      save(new Blob([text], { type: "application/json" }), "attention.json");
      this.said.textContent = "saved as attention.json, since this page may not copy";
    }
  }

  /** What is shown as an SVG: text as text, pictures embedded. */
  async svg() {
    const { header, shown, state } = this, [fh, fw] = header.frame, height = Math.round((280 * fh) / fw), step = 300, parts = [];
    const text = (x, y, words, size = 12, anchor = "middle") =>
      parts.push(`<text x="${x}" y="${y}" font-size="${size}" text-anchor="${anchor}">${escaped(words)}</text>`);
    const picture = (x, y, canvas, w = 280, h = height) => parts.push(`<image x="${x}" y="${y}" width="${w}" height="${h}" preserveAspectRatio="none" href="${canvas.toDataURL()}"/>`);
    const drawn = (source, w, h, smooth = false) => {
      const canvas = make("canvas", { width: w, height: h }), context = canvas.getContext("2d");
      context.imageSmoothingEnabled = smooth;
      context.drawImage(source, 0, 0, w, h);
      return canvas;
    };
    const image = /** @type {HTMLImageElement} */ (this.stage.querySelector("img"));
    await image.decode();
    const ground = drawn(image, 2 * fw, 2 * fh, !header.sharp), context = ground.getContext("2d");
    context.globalAlpha = state.labels;
    context.imageSmoothingEnabled = false;
    context.drawImage(this.labels, 0, 0, 2 * fw, 2 * fh);
    picture(10, 40, ground);
    text(150, 32, "labels");
    shown.subjects.forEach((subject, n) => {
      const upper = 40 + n * (height + 60), [H, W] = header.size, { h, w } = this.maps;
      if (subject.x !== undefined)
        for (const [colour, wide] of [["black", 4], ["white", 2]])
          parts.push(`<circle cx="${10 + (280 * (subject.x + 0.5)) / W}" cy="${40 + (height * (subject.y + 0.5)) / H}" r="6" fill="none" stroke="${colour}" stroke-width="${wide}"/>`);
      this.rows[n].panels.forEach((panel, at) => {
        if (!panel.weights) return;
        const left = 10 + (at + 1) * step, factor = Math.max(1, Math.ceil(560 / w));
        picture(left, upper, drawn(panel.canvas, w * factor, h * factor));
        if (subject.i !== undefined) parts.push(`<rect x="${left + (280 * subject.j) / w}" y="${upper + (height * subject.i) / h}" width="${280 / w}" height="${height / h}" fill="none" stroke="white"/>`);
        text(left + 140, upper - 8, `R = ${panel.recurrence}`);
        text(left + 140, upper + height + 18, panel.note.textContent, 11);
      });
    });
    const width = 10 + step * (1 + header.recurrences.length), total = 40 + shown.subjects.length * (height + 60) + 20;
    text(width / 2, 16, `${header.model}, trained at R = ${header.trained}: ${state.kind === "attention" ? "what" : "who listens to"} ${shown.subjects.map(s => s.name).join(" and ")}${state.kind === "attention" ? " looks at" : ""}`, 13);
    picture(10 + step, total - 26, this.gradient, 200, 10);
    text(4 + step, total - 17, this.low.textContent, 10, "end");
    text(216 + step, total - 17, this.high.textContent, 10, "start");
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${total}" viewBox="0 0 ${width} ${total}" font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>${parts.join("")}</svg>`;
  }

  async savePicture(kind) {
    const file = new Blob([await this.svg()], { type: "image/svg+xml" });
    if (kind === "svg") return save(file, "attention.svg");
    const image = new Image(), href = URL.createObjectURL(file);
    image.src = href;
    await image.decode();
    const canvas = make("canvas", { width: 2 * image.width, height: 2 * image.height });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    URL.revokeObjectURL(href);
    canvas.toBlob(blob => blob && save(blob, "attention.png"), "image/png");
  }
}

/** Show a host's view in `el`, again whenever its payload changes; a sentence in its place where it cannot be shown. */
function render({ model, el }) {
  let newest = 0, viewer = null;
  const open = async () => {
    const turn = ++newest;
    try {
      const payload = decoded(await fetched(model.get("payload")));
      if (turn !== newest) return;
      const { kind, scale, large } = viewer?.state ?? {};
      viewer = new Viewer(el, model, payload, viewer ? { kind, scale, large } : {});
    } catch (error) {
      if (turn !== newest) return;
      const known = error instanceof Error && error.constructor === Error;
      const words = known ? error.message : `the view cannot be shown (${error}); make or save it again`;
      el.replaceChildren(make("p", { className: "ccnet-problem", role: "alert", "data-ccnet-viewer": "" }, words));
    }
  };
  model.on("change:payload", open);
  open();
}

export default { render };
