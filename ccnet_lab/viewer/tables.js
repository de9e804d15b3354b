// A step's attention of all cells from its queries and keys, in a worker of the page; viewer.js reads the table.

/** Add to `out` the products of a cell's query with `count` keys. @param {Float32Array} keys (d, count), from `from` */
function score(out, at, count, query, cell, depth, keys, from) {
  let c = cell * depth;
  for (const end = c + depth; c + 3 < end; c += 4, from += 4 * count) { // one write for four, as in viewer.js
    const q = query[c], r = query[c + 1], s = query[c + 2], t = query[c + 3];
    for (let n = 0, k = from; n < count; n++, k++)
      out[at + n] += q * keys[k] + r * keys[k + count] + s * keys[k + 2 * count] + t * keys[k + 3 * count];
  }
  for (; c < (cell + 1) * depth; c++, from += count)
    for (let n = 0; n < count; n++) out[at + n] += query[c] * keys[from + n];
}

/** (hw, h + w): column entries, then row entries, as maps.dense_weights. @param {Float32Array} query (hw, d), as key */
export default function tabulate(query, key, h, w) {
  const depth = query.length / (h * w), table = new Float32Array(h * w * (h + w));
  const rows = new Float32Array(key.length), columns = new Float32Array(key.length); // (h, d, w) and (w, d, h)
  for (let i = 0, at = 0; i < h; i++)
    for (let j = 0; j < w; j++)
      for (let c = 0; c < depth; c++, at++) rows[(i * depth + c) * w + j] = columns[(j * depth + c) * h + i] = key[at];
  const scores = new Float64Array(h + w);
  for (let i = 0, cell = 0; i < h; i++)
    for (let j = 0; j < w; j++, cell++) {
      scores.fill(0);
      score(scores, 0, h, query, cell, depth, columns, j * depth * h);
      score(scores, h, w, query, cell, depth, rows, i * depth * w);
      scores[i] = -Infinity; // the cell itself counts once, in its row
      let top = -Infinity, sum = 0;
      for (let n = 0; n < h + w; n++) if (scores[n] > top) top = scores[n];
      for (let n = 0; n < h + w; n++) sum += scores[n] = Math.exp(scores[n] - top);
      for (let n = 0, at = cell * (h + w); n < h + w; n++) table[at + n] = scores[n] / sum;
    }
  return table;
}

if (typeof document === "undefined")
  onmessage = ({ data: [turn, ...asked] }) => {
    const table = tabulate(...asked);
    postMessage([turn, table], [table.buffer]);
  };
