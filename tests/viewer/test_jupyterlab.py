"""The widget in a real JupyterLab in headless Chromium: it follows, tells Python, obeys Python."""

import json
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import CHROMIUM, FLAGS

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupyterlab")
pytest.importorskip("anywidget")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)
CELLS = (
    "import ccnet_lab\nfrom ccnet_lab.data.generated.beacons import make_scene\n"
    "shown = ccnet_lab.Explorer.open('demo').look(make_scene(10_000_018).image).widget()\nshown",
    "print('at', shown.x, shown.y, 'R', shown.recurrence)",
    "shown.x, shown.y, shown.recurrence = 10, 12, 3",
)
STATE = "document.querySelector('[data-ccnet-viewer]').ccnetState()"


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """The address of a JupyterLab on a folder with one notebook."""
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "try.ipynb")
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [
        *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"),
        *("--port", str(port), "--IdentityProvider.token=", "--ServerApp.password="),
    ]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        for _ in range(300):
            try:
                json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status"))
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/lab/tree/try.ipynb"
        process.terminate()
        process.wait(30)


def test_it_follows_the_pointer_and_python_reads_and_sets_it(lab):
    from playwright.sync_api import sync_playwright

    def run(number):
        tab.locator(".jp-Cell").nth(number).click()
        tab.keyboard.press("Shift+Enter")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_page(viewport={"width": 1500, "height": 1000})
        tab.goto(lab)
        tab.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
        tab.wait_for_selector("text=Python 3 (ipykernel) | Idle", timeout=120_000)
        run(0)
        stage = tab.wait_for_selector(".ccnet-stage", timeout=120_000)
        box = stage.bounding_box()
        tab.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.25 * box["height"])
        tab.wait_for_function(f"{STATE}.x === 48 && {STATE}.y === 24")
        tab.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"])
        tab.wait_for_function(f"{STATE}.pinned")
        tab.wait_for_timeout(500)
        run(1)
        tab.wait_for_selector("text=at 24 48 R 2", timeout=60_000)
        run(2)
        tab.wait_for_function(
            f"{STATE}.x === 10 && {STATE}.y === 12 && {STATE}.recurrence === 3", timeout=60_000
        )
        browser.close()
