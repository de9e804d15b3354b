// What the page does in the browser: says what the viewer shows, saves figures as PNG, copies. The HTML is in templates/.
() => {
  // What the viewer shows, for the events whose js is page.SEEN.
  window.ccnetLooked = changes => {
    const viewer = document.querySelector("#view [data-ccnet-viewer]");
    if (changes) viewer?.ccnetShow?.(changes);
    const state = viewer?.ccnetState?.();
    const { mode, region } = state ?? {}, corners = mode === "region" && region?.from ? [...region.from, ...region.to] : null;
    const shown = { corners, label: mode === "class" ? region?.k ?? null : null }; // the region's, or the class
    return state && Object.assign(shown, Object.fromEntries(["x", "y", "recurrence", "labels", "photo", "clip", "pinned", "kind", "scale"].map(name => [name, state[name]])));
  };

  // Errors are shown above the picture; on a phone the visitor may be far below.
  const problem = document.querySelector("#problem");
  if (problem) new MutationObserver(() => {
    const message = problem.querySelector(".problem"), top = message?.getBoundingClientRect().top;
    if (message && (top < 0 || top > innerHeight)) message.scrollIntoView({ block: "center" });
  }).observe(problem, { childList: true, subtree: true });

  // A menu that the Tab key reaches or leaves is closed: gradio opens it for both. Arrow keys open it, and a click.
  let tabbed = false;
  const isMenu = element => element?.matches?.("input[role=combobox]");
  addEventListener("keydown", event => {
    if (event.isTrusted) tabbed = event.key === "Tab";
    if (event.key === "Tab" && isMenu(event.target)) event.stopPropagation();
  }, true);
  addEventListener("pointerdown", () => (tabbed = false), true);
  document.addEventListener("focusin", ({ target }) => {
    if (tabbed && isMenu(target))
      setTimeout(() => target.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true })), 0);
  });

  // Pictures are saved as they are on show: the server may have forgotten them, and would answer with an error instead.
  const report = message => {
    const line = Object.assign(document.createElement("div"), { className: "problem own", role: "alert", textContent: message });
    document.querySelector("#problem").append(line);
  };
  document.addEventListener("click", () => document.querySelector("#problem .own")?.remove(), true); // the server doesn't know of it
  const drawn = async shown => {
    const canvas = Object.assign(document.createElement("canvas"), { width: shown.naturalWidth, height: shown.naturalHeight });
    canvas.getContext("2d").drawImage(shown, 0, 0);
    return new Promise((done, failed) => canvas.toBlob(file => (file ? done(file) : failed(new Error("it cannot be drawn"))), "image/png"));
  };
  document.addEventListener("click", async event => {
    const button = event.target.closest("button.png");
    if (!button) return;
    try {
      const shown = button.closest("figure").querySelector("img");
      if (!shown?.naturalWidth) throw new Error("no picture is on show");
      const address = URL.createObjectURL(await drawn(shown));
      Object.assign(document.createElement("a"), { href: address, download: `${button.dataset.name}.png` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 10_000);
    } catch (error) {
      report(`the picture ${button.dataset.name}.png was not saved: ${error.message}; load the page again and try once more`);
    }
  });

  // The address follows the view where the app can open it again: of an example, or once its link was copied.
  // window.ccnetLink holds what only the server knows of the view on show, or null.
  const LINKED = ["image", "weights", "model", "config", "input", "r", "x", "y", "labels", "photo", "clip", "kind", "scale",
    "tab", "board", "order", "one", "other", "drawn"]; // the fields of link.py
  const follow = () => {
    const query = new URLSearchParams(location.search), looked = window.ccnetLooked();
    if (!looked) return;
    const { recurrence: r, pinned, corners, label, ...seen } = looked, tab = document.querySelector("#tabs [role=tab][aria-selected=true]");
    const wanted = window.ccnetLink ? { ...window.ccnetLink, r, ...seen, tab: tab?.innerText.trim() ?? "Explore" } : {};
    const holds = ([name, value]) => query.get(name) === String(value) || Number(query.get(name)) === value;
    if (window.ccnetLink && Object.entries(wanted).every(holds)) return; // with what the other tabs show, if it was copied
    LINKED.forEach(name => query.delete(name));
    for (const [name, value] of Object.entries(wanted)) query.set(name, value);
    history.replaceState(history.state, "", location.pathname + (query.size ? `?${query}` : ""));
  };
  let following;
  window.ccnetFollow = () => { clearTimeout(following); following = setTimeout(follow, 300); };
  document.addEventListener("click", ({ target }) => {
    if (target.closest("#tabs [role=tab]") && location.search.includes("image=")) window.ccnetFollow();
  });

  window.copied = text => { navigator.clipboard?.writeText(text).catch(() => {}); return text; };
  window.copiedLink = query => {
    const address = query && location.origin + location.pathname + query;
    if (address) history.replaceState(history.state, "", address);
    const copied = new URLSearchParams(query ?? "");
    if (address) window.ccnetLink = Object.fromEntries(["image", "weights", "model", "config", "input"].map(name => [name, copied.get(name)]));
    return window.copied(address);
  };
}
