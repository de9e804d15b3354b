// What the page does in the browser: says what the viewer shows, saves figures as PNG, copies. The HTML is in templates/.
() => {
  // What the viewer shows, for the events whose js is page.SEEN.
  window.ccnetLooked = changes => {
    const viewer = document.querySelector("#view [data-ccnet-viewer]");
    if (changes) viewer?.ccnetShow?.(changes);
    const state = viewer?.ccnetState?.();
    return state && Object.fromEntries(["x", "y", "recurrence", "labels", "photo", "clip", "pinned", "kind", "scale"].map(name => [name, state[name]]));
  };

  // Errors are shown above the picture; on a phone the visitor may be far below.
  const problem = document.querySelector("#problem");
  if (problem) new MutationObserver(() => {
    const message = problem.querySelector(".problem"), top = message?.getBoundingClientRect().top;
    if (message && (top < 0 || top > innerHeight)) message.scrollIntoView({ block: "center" });
  }).observe(problem, { childList: true, subtree: true });

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

  window.copied = text => { navigator.clipboard?.writeText(text).catch(() => {}); return text; };
  window.copiedLink = query => {
    const address = query && location.origin + location.pathname + query;
    if (address) history.replaceState(null, "", address);
    return window.copied(address);
  };
}
