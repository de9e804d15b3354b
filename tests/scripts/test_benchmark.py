"""Timings: every sub-command runs and stores results; forms timed side by side give the same."""

import copy
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from layouts import make_camvid
from PIL import Image

from benchmarks.maps import dense_map, dense_matrix, time_maps
from benchmarks.precisions import compared
from benchmarks.timing import summary
from benchmarks.training import as_published
from ccnet_lab import build_model
from ccnet_lab.configs import Config
from ccnet_lab.device import has_bf16
from ccnet_lab.explore.maps import Step, dense_weights
from ccnet_lab.model.attention import CrissCrossAttention
from ccnet_lab.model.folding import Folded
from ccnet_lab.model.winograd import WinogradConv2d, use_winograd

ROOT = Path(__file__).parents[2]
RATIOS = {  # of each sub-command: the baseline's median, and ours
    "train": lambda row: (
        1 / row["published"]["images_per_second"] * row["ours"]["images_per_second"]
    ),
    "data": lambda row: (
        (row["recipe_read"] + row["recipe_transform"]) / (row["read"] + row["transform"])
    ),
    "explore": lambda row: row["dense_median"] / row["median"],
    "attention": lambda row: row["plain_total"][0] / row["fast_total"][0],
}


@pytest.mark.parametrize("what", [*RATIOS, "infer", "look"])
def test_every_part_runs_and_stores(door, tmp_path, what):
    files = ("--json", tmp_path / "found.json", "--figure", tmp_path / "found.png")
    only = ("--only", "street") if what == "train" else ()
    code, out, err = door("scripts/benchmark.py", what, "--small", "--repeats", 2, *only, *files)
    assert code == 0, err
    stored = json.loads((tmp_path / "found.json").read_text())
    assert {"commit", "versions", "machine", "repeats", what} <= set(stored)
    rows = stored[what]
    ratio = RATIOS.get(what, lambda row: rows[0]["median"] / row["median"])
    for row in rows:
        assert row.get("ratio", row.get("total_ratio")) == pytest.approx(ratio(row))
    assert out.count("\n") >= 2 + len(rows)
    assert ("no bf16 units here" in out) == (what == "infer" and not has_bf16(torch.device("cpu")))
    assert Image.open(tmp_path / "found.png").size[0] > 600


def test_agreement_of_the_precisions(door, tmp_path):
    make_camvid(tmp_path)
    words = ("--repeats", 2, "--steps", 2, "--device", "cpu", "--json", tmp_path / "found.json")
    code, out, err = door("scripts/benchmark.py", "train", "--agreement", tmp_path, *words)
    assert code == 0, err
    (found,) = json.loads((tmp_path / "found.json").read_text())["train"]
    assert [(run["form"], run["seed"]) for run in found["runs"]] == [
        (form, seed) for seed in (0, 1) for form in ("float32", "bf16")
    ]
    assert len({run["loss"] for run in found["runs"]}) == 4
    assert "the spread" in out


def test_agreement_is_against_the_spread_of_the_seeds():
    runs = [
        {"form": "float32", "seed": seed, "loss": loss, "miou": 0.4}
        for seed, loss in enumerate((1.0, 1.3, 1.1))
    ]
    near = [{**run, "form": "near", "loss": run["loss"] + 0.2} for run in runs]
    far = [{**run, "form": "far", "miou": 0.3} for run in runs]
    found = compared([*runs, *near, *far])
    assert found["spread"] == pytest.approx({"loss": 0.3, "miou": 0.0})
    assert found["difference"]["near"] == pytest.approx({"loss": 0.2, "miou": 0.0})
    assert found["agrees"] == {"near": True, "far": False}


def test_the_call_for_a_gpu_is_rehearsed_and_a_part_that_fails_costs_itself_only(door, tmp_path):
    words = ("--out", tmp_path, "--device", "cpu", "--small", "--minutes", 4, "--parts")
    code, _, err = door("benchmarks/gpu.py", *words, "feed")
    assert code == 0, err
    code, _, err = door("benchmarks/gpu.py", *words, "agreement", "attention")
    assert code == 1
    assert "failed, or out of time: agreement" in err
    assert {path.name for path in tmp_path.glob("*.json")} == {
        "gpu_attention.json",
        "gpu.json",
        "gpu_feed.json",
    }
    fed = json.loads((tmp_path / "gpu_feed.json").read_text())["feed"]
    assert all(0 <= row["waiting"] <= 1 for row in fed.values())


def test_the_whole_call_for_a_gpu_is_rehearsed_on_a_bare_machine(tmp_path):
    """All parts in one call, in time, without the packages that only the app and notebooks need."""
    make_camvid(tmp_path / "data")
    for name in ("gradio", "IPython", "ipywidgets", "anywidget", "pandas", "seaborn", "matplotlib"):
        path = tmp_path / "bare" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"raise ImportError('there is no {name} here')\n")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--small"]
    command += ["--out", str(tmp_path / "out"), "--data", str(tmp_path / "data"), "--minutes", "2"]
    command += ["--only", "*50os16_voc"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'bare'}", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    out = tmp_path / "out"
    done = json.loads((out / "gpu.json").read_text())
    assert done["failed"] == []
    assert list(done["seconds"]) == ["op", "exact", "train", "attention", "infer", "camvid"]
    assert json.loads((out / "gpu_exact.json").read_text())["exact"] == {
        "resumed bit by bit, deterministic": "equal",
        "waits, street with every loss": "ran; only a GPU can be waited for",
        "waits, R-50-D16": "ran; only a GPU can be waited for",
    }
    op = json.loads((out / "gpu_op.json").read_text())["op"]
    assert {row["dtype"] for row in op} == {"torch.float32", "torch.bfloat16", "torch.float16"}
    assert all(
        row[name] < (1e-5 if row["dtype"] == "torch.float32" else 0.05)
        for row in op
        for name in ("out", "query", "key", "value")
    )
    trained = json.loads((out / "gpu_camvid.json").read_text())["camvid"]
    assert "ccnet_resnet50os16_camvid_seed0" in trained
    train = json.loads((out / "gpu_train.json").read_text())["train"]
    for row in train.values():  # the same weights and the same batch, whatever the mode
        assert row["ours"]["first_loss"] == pytest.approx(row["published"]["first_loss"], rel=0.02)


def test_a_device_that_is_not_there(door):
    assert door("benchmarks/gpu.py", "--out", ".", "--device", "cuda:77")[0] == 2
    code, _, err = door("scripts/benchmark.py", "explore", "--device", "cuda:77")
    assert code == 2
    assert "cuda:77" in err


def test_the_spread_is_the_middle_half():
    assert summary([1.0, 2.0, 4.0, 6.0, 100.0]) == (4.0, 1.0)


def _used(config: str | Config):
    """A network whose batch norms have seen something."""
    torch.manual_seed(0)
    model = build_model(config)
    with torch.no_grad():
        model.attention.gamma.fill_(0.7)
        model.train()(torch.randn(2, 3, 48, 48))
    return model.eval()


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ("demo", (37, 50)),
        ("street", (75, 53)),
        ("street8", (49, 98)),
        ("ccnet_resnet50os8_voc", (65, 49)),
    ],
)
@torch.no_grad()
def test_folded_networks_agree(config, size):
    model = _used(config)
    images = torch.randn(1, 3, *size)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = Folded(model)
    torch.testing.assert_close(fast(images).logits, model(images).logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        fast(images, recurrence=3).logits, model(images, recurrence=3).logits, rtol=1e-4, atol=1e-4
    )
    assert not [module for module in fast.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert fast.aux_classifier is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 9), (33, 40)])
@torch.inference_mode()
def test_winograd_is_the_convolution(size, dilation):
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(
        6, 5, 3, padding=dilation, dilation=dilation, bias=dilation > 1
    ).double()
    for layout in (torch.contiguous_format, torch.channels_last):
        images = torch.randn(2, 6, *size, dtype=torch.float64).contiguous(memory_format=layout)
        torch.testing.assert_close(
            WinogradConv2d(convolution)(images), convolution(images), rtol=1e-11, atol=1e-12
        )


@torch.no_grad()
def test_winograd_and_a_network_folded_twice_under_autocast():
    """The convolution stays in float32; what is folded already is only copied."""
    model, images = _used("ccnet_resnet50os16_voc"), torch.randn(1, 3, 65, 49)
    fast = use_winograd(Folded(Folded(model)))
    expected = fast(images).logits
    with torch.autocast("cpu", torch.bfloat16):
        found = fast(images).logits
    torch.testing.assert_close(
        found.float(), expected, rtol=0, atol=0.1 * float(expected.abs().max())
    )
    torch.testing.assert_close(
        expected, model(images).logits, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
    )


@torch.no_grad()
def test_a_network_with_winograd_agrees():
    model, images = _used("ccnet_resnet50os8_voc"), torch.randn(1, 3, 65, 49)
    fast = use_winograd(Folded(model))
    replaced = [module for module in fast.modules() if isinstance(module, WinogradConv2d)]
    assert len(replaced) == 6 + 3 + 3  # stage 3, stage 4, the head
    assert {module.dilation for module in replaced} == {1, 2, 4}
    expected = model(images).logits
    torch.testing.assert_close(
        fast(images).logits, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
    )


@torch.no_grad()
def test_the_published_form_is_the_same_network():
    model, images = _used("street"), torch.randn(1, 3, 41, 60)
    expected = model(images).logits
    assert as_published(copy.deepcopy(model).double()).attention.query.weight.dtype == torch.float64
    published = as_published(model)
    assert type(published.attention) is not CrissCrossAttention
    torch.testing.assert_close(published(images).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grid", [(5, 8), (1, 4), (6, 1)])
def test_dense_matrices_give_the_same_map(grid):
    assert all(
        timing.difference < 1e-6
        for timing in time_maps(grid, 1, torch.device("cpu"), query_channels=3)
    )
    generator = torch.Generator().manual_seed(0)
    step = Step(*(torch.randn(*grid, 3, generator=generator) for _ in range(2)))
    matrix = dense_matrix(step)
    assert torch.allclose(matrix.sum(1), torch.ones(len(matrix)))
    assert float(matrix.max()) == pytest.approx(float(dense_weights(step).max()))
    assert torch.allclose(dense_map([step], 0, 0).flatten(), matrix[0])


def test_the_readme_s_ratios_are_those_that_were_measured():
    lines = (ROOT / "README.md").read_text().splitlines()
    told = {
        line.split(" | ")[0]: line.split(" | ")[2]
        for line in lines
        if line.startswith("| ") and line.count(" | ") == 3
    }
    stored = {
        part: json.loads((ROOT / "results" / f"{part}_cpu.json").read_text())
        for part in ("data", "train", "infer", "explore", "attention")
    }
    found = {part: stored[part][part] for part in stored}
    assert not [part for part, whole in stored.items() if "uncommitted" in whole["commit"]]
    data = {(row["dataset"], row["source"]): row["ratio"] for row in found["data"]}
    assert float(told["| training samples per core, VOC's JPEGs"]) == round(data["voc", "files"], 2)
    assert float(told["| training samples per core, Cityscapes' PNGs"]) == round(
        data["cityscapes", "files"], 2
    )
    assert float(told["| training samples per core, Cityscapes' cache"]) == round(
        data["cityscapes", "cache"], 1
    )
    assert float(told["| training step, `street`, float32"]) == round(found["train"][0]["ratio"], 2)
    (winograd,) = (row["ratio"] for row in found["infer"] if "Winograd" in row["form"])
    assert float(told["| R-50-D8, one image of 512x512, float32"]) == round(winograd, 2)
    for row in found["explore"][:3]:
        assert float(told[f"| a pixel's map, R = {row['recurrence']}, 64x64 cells"]) == round(
            row["ratio"]
        )
    for name, kind in (
        ("forward, five sizes", "forward_ratio"),
        ("forward and backward", "total_ratio"),
    ):
        eager, compiled = (
            [row[kind] for row in found["attention"] if row["form"] == form]
            for form in ("ours", "ours, compiled")
        )
        assert told[f"| attention step, {name}"] == f"{min(eager):.2f} to {max(eager):.2f}"
        assert f"under `torch.compile` {min(compiled):.2f} to {max(compiled):.2f}" in next(
            line for line in lines if name in line
        )
    (agreement,) = json.loads((ROOT / "results" / "agreement_cpu.json").read_text())["train"]
    difference, spread = agreement["difference"]["bf16"], agreement["spread"]
    words = " ".join(lines)
    loss, miou = difference["loss"], 100 * difference["miou"]
    assert f"differ by {loss:.3f} on average, where seeds differ by {spread['loss']:.3f}" in words
    assert (
        f"the mIoU by {miou:.2f} points, where seeds differ by {100 * spread['miou']:.2f}" in words
    )
    assert agreement["agrees"]["bf16"]
    assert len(agreement["runs"]) == 6


@pytest.mark.skipif(not find_spec("onnxscript"), reason='pip install -e ".[export]"')
def test_other_runtimes_give_the_same_labels(door):
    code, out, _ = door("scripts/benchmark.py", "infer", "--runtimes", "--small", "--repeats", 1)
    assert code == 0
    (row,) = (line for line in out.splitlines() if line.startswith("| ONNX Runtime |"))
    assert float(row.split("|")[5].strip(" %")) > 99


def test_the_readme_s_ratios_on_avx512_are_those_that_were_measured():
    results, readme = ROOT / "results", (ROOT / "README.md").read_text("utf-8")
    rows = json.loads((results / "infer_avx512.json").read_text())["infer"]
    found = {row["form"]: f"{row['ratio']:.2f}" for row in rows}
    steps = json.loads((results / "attention_avx512.json").read_text())["attention"]
    ours, products = (
        [row["total_ratio"] for row in steps if row["form"] == form]
        for form in ("ours", "the products alone")
    )
    compiled, openvino = found["folded, channels-last, compiled"], found["OpenVINO"]
    samples = json.loads((results / "data_avx512.json").read_text())["data"]
    files = next(r for r in samples if (r["dataset"], r["source"]) == ("cityscapes", "files"))
    looks = json.loads((results / "look_avx512.json").read_text())["look"]
    street, wide = (row for row in looks if row["precision"] == "bf16")
    for said in (
        f"answers a photograph {wide['ratio']:.2f} times as fast as in float32",
        f"{street['pictures']} test pictures {100 * street['labels_equal']:.2f} % of the pixels",
        f"{100 * street['fewest_equal']:.2f} % in the worst one",
        f"{100 * street['map_difference']:.2f} % of its weight elsewhere",
        f"{found['folded, channels-last, Winograd']} times as fast as the published mode",
        f"(`torch.compile` {compiled}, OpenVINO {openvino}, ONNX Runtime {found['ONNX Runtime']})",
        f"{min(ours):.2f} to {max(ours):.2f} times",
        f"{min(products):.2f} to {max(products):.2f}",
        f"{files['images_per_second']:.1f} samples a second and core, {files['ratio']:.2f} times",
    ):
        assert said in " ".join(readme.split())
