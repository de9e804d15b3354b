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
new MutationObserver(changes => { // another view is on show; the first one leaves the address as it was opened
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
