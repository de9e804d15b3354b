// Hosts viewer.js in a gr.HTML: its value is JSON, the payload's file and what a link or another tab sets.
const host = element.querySelector(".ccnet-host"), listeners = {};
const read = () => { try { return JSON.parse(props.value || "{}"); } catch { return {}; } };
let values = read(), started = false;
const address = file => file && `${location.pathname.replace(/\/*$/, "/")}gradio_api/file=${file}`;
const model = {
  get: name => (name === "payload" ? address(values.file) : values[name]),
  set: (name, value) => { values[name] = value; },
  save_changes() {},
  on: (name, act) => { (listeners[name] ??= []).push(act); },
  exact: async (...asked) => (await server.exact_map([values.file, ...asked])) ?? "the server does not answer; load the page again",
};
document.head.append(Object.assign(document.createElement("style"), { textContent: VIEWER_STYLE })); // gradio drops @container
const source = URL.createObjectURL(new Blob([VIEWER_SOURCE], { type: "text/javascript" }));
const show = async () => {
  if (!values.file) return;
  if (started) return (listeners["change:payload"] ?? []).forEach(act => act());
  started = true;
  (await import(source)).default.render({ model, el: host });
};
watch("value", () => { values = read(); show(); });
show();
