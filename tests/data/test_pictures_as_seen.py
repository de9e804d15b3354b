"""data/images.py: every picture of a generated corpus is read as Chromium shows it, or refused."""

import base64

import numpy as np
import pytest
from conftest import CHROMIUM, FLAGS
from profiles import corpus

from ccnet_lab.data.images import read_image

SHOW = """
async (all) => {
  const found = [];
  for (const address of all) {
    const image = new Image();
    image.src = address;
    try { await image.decode(); } catch { found.push(null); continue; }
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d", {colorSpace: "srgb"});
    context.fillStyle = "white"; context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0);
    const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
    found.push([canvas.height, canvas.width, Array.from(data)]);
  }
  return found;
}
"""
MIME = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp", "AVIF": "avif", "BMP": "bmp", "GIF": "gif"}


@pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)
def test_pictures_are_what_a_browser_shows():
    from playwright.sync_api import sync_playwright

    pictures = list(corpus())
    assert len(pictures) >= 300
    addresses = []
    for name, content, instead in pictures:
        kind = MIME[name.split()[0]] if instead is None else "png"
        addresses.append(
            f"data:image/{kind};base64,{base64.b64encode(instead or content).decode()}"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        shown = browser.new_page().evaluate(SHOW, addresses)
        browser.close()
    far, refused = {}, []
    for (name, content, _), there in zip(pictures, shown, strict=True):
        if there is None:
            refused.append(name)
            continue
        expected = np.array(there[2], np.uint8).reshape(there[0], there[1], 4)[..., :3]
        found = read_image(content)
        difference = (
            np.abs(found.astype(int) - expected).mean()
            if found.shape == expected.shape
            else found.shape
        )
        if not isinstance(difference, float) or difference > 1.5:
            far[name] = difference
    assert not far
    assert not refused
