// Hosts viewer.js in a gr.HTML: its value is JSON, the payload's file and what a link or another tab sets.
const host = element.querySelector(".ccnet-host"), listeners = {};
const read = () => { try { return JSON.parse(props.value || "{}"); } catch { return {}; } };
let values = read(), started = false;
const address = ({ file, turn }) => file && `${location.pathname.replace(/\/*$/, "/")}gradio_api/file=${file}?${turn}`;
const script = text => URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
// Tables of attention weights, made beside the page where it may have workers; else by itself.
const tables = script(TABLES_SOURCE), waiting = new Map();
let worker = null, turn = 0;
const alone = async asked => (await import(tables)).default(...asked);
const fail = () => { // the page makes them by itself from now on
  worker = null;
  for (const { resolve, asked } of waiting.values()) resolve(alone(asked));
  waiting.clear();
};
const begin = () => {
  worker = new Worker(tables, { type: "module" });
  worker.onmessage = ({ data: [number, table] }) => { waiting.get(number)?.resolve(table); waiting.delete(number); };
  worker.onerror = worker.onmessageerror = fail;
};
try { begin(); } catch { worker = null; }
const model = {
  get: name => (name === "payload" ? address(values) : values[name]),
  set: (name, value) => { values[name] = value; },
  save_changes: () => window.ccnetFollow?.(),
  on: (name, act) => { (listeners[name] ??= []).push(act); },
  exact: async (...asked) => (await server.exact_map([values.file, ...asked])) ?? "the server does not answer; load the page again",
  tabulate: (...asked) => worker ? new Promise(resolve => {
    waiting.set(++turn, { resolve, asked });
    try { worker.postMessage([turn, ...asked]); } catch { fail(); } // such as for want of memory
  }) : alone(asked),
};
document.head.append(Object.assign(document.createElement("style"), { textContent: VIEWER_STYLE })); // gradio drops @container
const source = script(VIEWER_SOURCE);

// A picture that was chosen is on show at once, and from half a second on for how long the network has looked at it.
const coming = Object.assign(document.createElement("div"), { className: "coming", hidden: true });
const preview = coming.appendChild(Object.assign(document.createElement("img"), { alt: "" }));
const said = coming.appendChild(Object.assign(document.createElement("p"), { role: "status" }));
let ticking = 0;
const arrived = () => {
  clearInterval(ticking);
  if (preview.src.startsWith("blob:")) URL.revokeObjectURL(preview.src);
  coming.hidden = true;
};
const come = (address, name) => {
  arrived();
  const begun = performance.now();
  const tell = () => {
    const seconds = (performance.now() - begun) / 1000;
    said.textContent = seconds < 0.5 ? name : `${name}: the network looks at it, ${seconds.toFixed(1)} s`;
    if (document.querySelector("[data-testid=toast-body]")) arrived(); // gradio has refused the file
  };
  Object.assign(coming, { hidden: false }), preview.hidden = false, preview.src = address;
  tell();
  ticking = setInterval(tell, 100);
};
preview.onerror = () => (preview.hidden = true); // such as HEIC, which the server reads
coming.onclick = arrived;
element.append(coming);
const sent = (place, files) => { if (place?.closest?.("#upload") && files?.[0]) come(URL.createObjectURL(files[0]), files[0].name); };
addEventListener("change", ({ target }) => sent(target, target.files), true);
addEventListener("drop", ({ target, dataTransfer }) => sent(target, dataTransfer?.files), true);
addEventListener("click", ({ target }) => {
  const example = target.closest?.("#examples button")?.querySelector("img");
  if (example) come(example.src, "example");
}, true);
const problems = document.querySelector("#problem");
if (problems) new MutationObserver(() => problems.querySelector(".problem") && arrived()).observe(problems, { childList: true, subtree: true });

new MutationObserver(changes => { // another view is on show; the first one leaves the address as it was opened
  arrived();
  window.ccnetLink = values.link;
  if (changes.some(({ removedNodes }) => removedNodes.length)) window.ccnetFollow?.();
}).observe(host, { childList: true });
const show = async () => {
  if (!values.file) return;
  if (started) return (listeners["change:payload"] ?? []).forEach(act => act());
  started = true;
  (await import(source)).default.render({ model, el: host });
};
watch("value", () => { values = read(); show(); });
show();
