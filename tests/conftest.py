"""What several tests share: the fill rule of the parity data, photographs, generated pictures."""

import json
import math
import os
import runpy
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

if workers := int(
    os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)
):  # `make test` shares the files out: so the cores, too
    threads = max(1, (os.cpu_count() or 1) // workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # for the processes the tests start
    torch.set_num_threads(threads)

# Programs compiled for one kind of CPU crash on another, and the usual folder may be shared.
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR",
    f"{tempfile.gettempdir()}/ccnet_lab_inductor_{torch.backends.cpu.get_cpu_capability()}",
)

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
# Test files that take more than some seconds, the longest first; `make test-fast` leaves them out.
SLOW = (
    "test_notebooks", "test_export", "test_benchmark", "test_miniature_kills", "test_bad_runs",
    "test_loop", "test_starts", "test_step", "test_endings", "test_train_all", "test_tracers",
    "test_own", "test_recipe_parts", "test_worlds", "test_kernels_compiled", "test_fake_gpu",
    "test_scripts", "test_script_ends", "test_app_failures", "test_score_published",
    "test_attention_cuda", "test_weights", "test_costs", "test_evaluate", "test_strange_files",
    "test_recipe", "test_foreign", "test_deletion", "test_visitors", "test_progress",
    "test_street", "test_miniatures", "test_miniature", "test_repeats", "test_store", "test_fuzz",
    "test_gallery",
)  # fmt: skip
BROWSER = ("test_browser", "test_viewer", "test_jupyterlab", "test_pictures_as_seen")
HERE = Path(__file__).parent
PARITY = HERE / "data" / "parity"
SHARED = HERE.parent.parent / "shared" / "data"


def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """A state dict in published names, every entry made by the rule of the parity data."""
    out = {}
    for name, shape in shapes.items():
        noise = torch.randn(
            shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))
        )
        if name.endswith("num_batches_tracked"):
            value = torch.zeros(shape, dtype=torch.long)
        elif name.endswith("running_mean"):
            value = 0.1 * noise
        elif name.endswith("running_var"):
            value = 1 + 0.1 * noise.abs()
        elif name == "cca.gamma.scale":
            value = torch.tensor(0.5)
        elif len(shape) == 4:
            value = noise * math.sqrt(2 / (shape[1] * shape[2] * shape[3]))
        elif name.endswith(".bias"):
            value = 0.1 * noise
        elif name.endswith("bn3.weight"):
            value = 0.2 + 0.02 * noise
        else:
            value = 1 + 0.1 * noise
        out[name] = value
    return out


def published_shapes(config: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published file, from the recorded keys; data sets differ in classes."""
    depth, classes = (
        config.removeprefix("ccnet_resnet").split("os")[0],
        {"voc": 21, "ade20k": 150, "cityscapes": 19}[config.split("_")[-1]],
    )
    shapes = json.loads((PARITY / "published_state_dict_keys.json").read_text())[
        f"ccnet_resnet{depth}os8_voc"
    ]
    return {
        name: (classes, *shape[1:])
        if name.startswith(("decoder.4.", "auxiliary_decoder.4."))
        else tuple(shape)
        for name, shape in shapes.items()
    }


def to_published_names(entries):
    """A state dict of ccnet_lab under SSSegmentation's names."""
    from ccnet_lab.model.foreign import PUBLISHED

    back = {own: theirs for theirs, own in PUBLISHED.names.items()}
    beginning = {name: next(own for own in back if name.startswith(own)) for name in entries}
    return {
        back[begin] + name.removeprefix(begin): entries[name] for name, begin in beginning.items()
    }


@pytest.fixture(scope="session")
def published_file(tmp_path_factory):
    """Path of a file in the published format for a configuration, filled by the rule; made once."""
    made = {}

    def make(config: str) -> Path:
        if config not in made:
            made[config] = tmp_path_factory.mktemp("published") / f"{config}_train.pth"
            torch.save({"model": filled(published_shapes(config)), "epoch": 1}, made[config])
        return made[config]

    return make


@pytest.fixture
def saved(tmp_path):
    """Save anything by torch under a name; gives the path."""

    def save(content, name="a.pth"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def door(monkeypatch, capsys):
    """Run a script as `python SCRIPT WORDS` in this process: (exit code, stdout, stderr)."""

    def call(script: str, *words: object) -> tuple[int, str, str]:
        monkeypatch.chdir(HERE.parent)
        monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
        try:
            runpy.run_path(script, run_name="__main__")
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        return code, *capsys.readouterr()

    return call


def pytest_collection_modifyitems(items):
    """Mark what is slow or starts a browser; the slowest first, so that no worker is left alone."""
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)
        if item.path.stem in BROWSER:
            item.add_marker(pytest.mark.browser)
    order = [*BROWSER, *SLOW]
    known = {stem: place for place, stem in enumerate(order)}
    items.sort(key=lambda item: known.get(item.path.stem, len(order)))


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium for the tests of a file."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def photograph():
    """A real street photograph; skips where the shared data are absent."""
    found = sorted((SHARED / "camvid" / "test").glob("*.jpg")) if SHARED.is_dir() else []
    if not found:
        pytest.skip("no ../shared/data/camvid here")
    return found[0]


@pytest.fixture
def picture():
    """(H, W, 3) uint8 noise of a given size from a seed."""
    return lambda height, width, seed=0: np.random.default_rng(seed).integers(
        0, 256, (height, width, 3), np.uint8
    )
