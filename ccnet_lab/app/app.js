// What the page does in the browser: remembers clicks, moves the pixel by arrow keys, saves pictures as PNG, copies. The HTML is in templates/.
() => {
  const picture = () => document.querySelector("#stage img");
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  // gradio's deferred events (trigger_mode="always_last") carry the data of the first click, so the page remembers the last one.
  document.addEventListener("click", event => {
    const box = event.target.closest("#stage") && picture()?.getBoundingClientRect();
    const at = box && [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    if (at?.every(share => share >= 0 && share <= 1)) window.lastClick = at;
  }, true);

  const stage = document.querySelector("#stage");
  if (stage) Object.assign(stage, { tabIndex: 0, ariaLabel: "the image with its labels; arrow keys move the chosen pixel cell by cell" });
  let pending = null; // where the keys have moved to while the page still answers
  document.addEventListener("keydown", event => {
    const cell = document.querySelector("#marker .cell"), step = moves[event.key];
    if (!step || !cell || !event.target.closest("#stage")) return;
    event.preventDefault();
    const share = name => parseFloat(cell.style[name]) / 100;
    const size = [share("width"), share("height")], box = picture().getBoundingClientRect();
    const from = pending ?? [share("left") + size[0] / 2, share("top") + size[1] / 2];
    const to = from.map((at, axis) => Math.min(Math.max(at + step[axis] * size[axis], size[axis] / 2), 1 - size[axis] / 2));
    pending = to;
    clearTimeout(window.keysRest);
    window.keysRest = setTimeout(() => (pending = null), 600);
    picture().dispatchEvent(new MouseEvent("click", {
      bubbles: true, clientX: box.left + to[0] * box.width, clientY: box.top + to[1] * box.height,
    }));
  });

  // What went wrong is told above the picture; on a phone the visitor may be far below.
  const problem = document.querySelector("#problem");
  if (problem) new MutationObserver(() => {
    const words = problem.querySelector(".problem"), top = words?.getBoundingClientRect().top;
    if (words && (top < 0 || top > innerHeight)) words.scrollIntoView({ block: "center" });
  }).observe(problem, { childList: true, subtree: true });

  // Pictures are saved as they are on show: the server may have forgotten them, and would send its words for them instead.
  const loaded = async address => { const image = new Image(); image.src = address; await image.decode(); return image; };
  const told = words => {
    const line = Object.assign(document.createElement("div"), { className: "problem own", role: "alert", textContent: words });
    document.querySelector("#problem").append(line);
  };
  document.addEventListener("click", () => document.querySelector("#problem .own")?.remove(), true); // the server doesn't know of it
  const drawn = async shown => {
    const map = shown.closest(".map"), ground = map && getComputedStyle(map).backgroundImage.match(/url\("(.*)"\)/)?.[1];
    const box = map && map.getBoundingClientRect(), canvas = document.createElement("canvas"), context = canvas.getContext("2d");
    [canvas.width, canvas.height] = map ? [Math.round(2 * box.width), Math.round(2 * box.height)] : [shown.naturalWidth, shown.naturalHeight];
    if (ground) context.drawImage(await loaded(ground), 0, 0, canvas.width, canvas.height);
    context.globalAlpha = map ? parseFloat(shown.style.opacity || "1") : 1;
    context.imageSmoothingEnabled = false;
    context.drawImage(shown, 0, 0, canvas.width, canvas.height);
    return new Promise((done, failed) => canvas.toBlob(file => (file ? done(file) : failed(new Error("it cannot be drawn"))), "image/png"));
  };
  document.addEventListener("click", async event => {
    const button = event.target.closest("button.png");
    if (!button) return;
    try {
      const shown = document.querySelector(button.dataset.of ?? "#none") ?? button.closest("figure").querySelector("img");
      if (!shown?.naturalWidth) throw new Error("no picture is on show");
      const address = URL.createObjectURL(await drawn(shown));
      Object.assign(document.createElement("a"), { href: address, download: `${button.dataset.name}.png` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 10_000);
    } catch (error) {
      told(`the picture ${button.dataset.name}.png was not saved: ${error.message}; load the page again and try once more`);
    }
  });

  window.copied = text => { navigator.clipboard?.writeText(text).catch(() => {}); return text; };
  window.copiedLink = query => {
    const address = query && location.origin + location.pathname + query;
    if (address) history.replaceState(null, "", address);
    return window.copied(address);
  };
}
