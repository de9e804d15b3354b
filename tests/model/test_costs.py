"""Costs: formulas against what torch counts, full attention pixel by pixel, measuring."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ccnet_lab import CONFIGS, build_model, get_config
from ccnet_lab.draw import charts
from ccnet_lab.errors import DeviceError
from ccnet_lab.explore import attention_costs as growth
from ccnet_lab.model import costs
from ccnet_lab.model.attention import CrissCrossAttention

PARAMETERS = {
    "voc": (52_192_779, 71_184_907),
    "ade20k": (52_325_133, 71_317_261),
    "cityscapes": (52_190_727, 71_182_855),
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CCNET_LAB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("name", [*CONFIGS, "demo", "demo_r1", "street", "street8"])
def test_the_formula_is_what_torch_counts_and_what_the_authors_add(name):
    config, found = get_config(name), costs.cost(name)
    h, w = (-(-side // config.output_stride) for side in config.crop_size)
    added = 2 * config.recurrence * h * w * (3 * config.query_channels + 2 * config.channels)
    assert found.formula_flops - found.counted_flops == added
    if name in CONFIGS:
        assert found.formula_flops == pytest.approx(found.counted_flops, rel=1e-4)
        assert found.parameters == PARAMETERS[config.dataset][config.depth == 101]


# Worked out layer by layer from depths, strides and widths, apart from the networks.
@pytest.mark.parametrize(
    ("name", "size", "operations"),
    [
        ("ccnet_resnet50os8_voc", (512, 512), 401_800_691_712),
        ("ccnet_resnet101os16_cityscapes", (512, 1024), 312_114_413_568),
        ("ccnet_resnet101os8_ade20k", (513, 769), 858_384_333_760),
        ("street", (360, 480), 5_124_142_080),
        ("demo", (64, 64), 28_852_224),
    ],
)
def test_the_networks_take_what_their_architecture_says(name, size, operations):
    assert costs.cost(name, size).formula_flops == operations


def test_odd_sizes_and_other_recurrences():
    config = replace(get_config("ccnet_resnet50os16_voc"), recurrence=3)
    found = costs.cost(config, (161, 97))
    assert found.size == (161, 97)
    assert found.formula_flops - found.counted_flops == 2 * 3 * 11 * 7 * (3 * 64 + 2 * 512)


def test_the_fast_form_on_a_cpu_needs_the_same_operations():
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        build_model("street").eval()(torch.zeros(1, 3, 64, 96))
    assert counter.get_total_flops() == costs.cost("street", (64, 96)).counted_flops


def test_measuring_is_remembered_for_this_machine_and_torch(home):
    ballast = np.ones(2**26)  # 512 MiB here, which the child must not count as its own
    found = costs.measure("street")
    assert 4 * 1.1e6 + 8e6 < found.peak_bytes < 2**28 < ballast.nbytes
    assert 0 < found.seconds < 30
    assert costs.measured_costs() == {"street": found}
    path = home / "measured_costs.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([{**rows[0], "machine": "another"}, {**rows[0], "torch": "1.0"}]))
    assert costs.measured_costs() == {}
    path.write_text('[{"name": ')
    assert costs.measured_costs() == {}
    costs._store(found)
    assert costs.measured_costs() == {"street": found}


def test_what_cannot_be_measured_says_why():
    with pytest.raises(
        DeviceError, match=r"demmo could not be measured: .*there is no configuration 'demmo'"
    ):
        costs.measure("demmo")


def test_the_door(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["costs", "ccnet_resnet50os8_voc"])
    costs.main()
    assert "52.19 M        401.80    401.78        -" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["costs", "resnet50"])
    with pytest.raises(SystemExit):
        costs.main()
    assert "ccnet_resnet50os8_voc" in capsys.readouterr().err


def test_the_authors_numbers():
    found = growth.formula_growth((97,))
    gflop = [f"{found[form][0]:.2f}" for form in growth.FORMS]
    assert gflop == ["8.29", "16.58", "24.88", "108.16"]


def test_full_attention_pixel_by_pixel():
    torch.manual_seed(0)
    step = CrissCrossAttention(6, 3, gamma=0.5).double()
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        found = growth.non_local_attention(step, x)
        query, key, value = step.query(x), step.key(x), step.value(x)
    for b, y, z in np.ndindex(2, 3, 5):
        scores = np.array(
            [[float(query[b, :, y, z] @ key[b, :, i, j]) for j in range(5)] for i in range(3)]
        )
        weights = torch.from_numpy(np.exp(scores) / np.exp(scores).sum())
        assert torch.allclose(
            found[b, :, y, z],
            x[b, :, y, z] + 0.5 * (value[b] * weights).sum((1, 2)),
            atol=1e-12,
            rtol=0,
        )


def test_growth_is_measured_and_ends_where_it_should():
    told = []
    found = growth.measure_growth(
        (6, 12, 4),
        16,
        4,
        repeats=2,
        most_bytes=4 * 6**4,
        progress=lambda *words: told.append(words),
    )
    assert found.sides == (4, 6, 12)
    assert told == [(k, 6) for k in range(6)]
    assert all((found.seconds[f"R = {r}"] > 0).all() for r in (1, 2, 3))
    assert np.isfinite(found.seconds["non-local"]).tolist() == [True, True, False]
    assert found.left_out.startswith("non-local from 12 x 12 cells on: its map")
    late = growth.measure_growth((4, 400), 16, 4, repeats=1, budget_seconds=0.5)
    assert np.isnan(late.seconds["non-local"]).tolist() == [False, True]
    assert "non-local from 400 x 400" in late.left_out
    with pytest.raises(ValueError, match="repeats is 0; expected 1 or more"):
        growth.measure_growth(repeats=0)


@pytest.mark.parametrize(
    ("given", "rounds", "left_out"),
    [
        ([4, 3, 3], [3, 3, 3], ""),
        ([4, 1, 1], [3, 1, 1], ""),
        ([2, 1, 1], [1, 1, 1], ""),
        ([2, 1, 0.9], [1, 1, 2], "non-local from 32 x 32"),
    ],
)
def test_rounds_are_given_up_before_a_side_is(monkeypatch, given, rounds, left_out):
    """With seconds by the formula; `given`: the rounds, a warm-up included, there is time for."""
    sides, seconds, now, told = (
        (8, 16, 32),
        growth.formula_growth((8, 16, 32), 16, 4),
        [0.0],
        [],
    )

    def timed(step, form, x):
        now[0] += (found := seconds[form][sides.index(x.shape[2])])
        return found

    monkeypatch.setattr(growth, "_time", timed)
    monkeypatch.setattr(growth, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    budget = 1.0001 * np.dot(given, sum(seconds.values()))
    found = growth.measure_growth(
        sides, 16, 4, budget_seconds=budget, progress=lambda done, of: told.append(done // 3)
    )
    assert [told.count(k) for k in range(3)] == rounds
    assert found.left_out.startswith(left_out)
    assert bool(found.left_out) == bool(left_out)


def test_growth_is_drawn_with_and_without_measurements():
    by_formula = growth.formula_growth(growth.SIDES)
    seconds = {form: np.array([1.0, 2, 3, 4, 5, np.nan]) for form in growth.FORMS}
    figure = charts.growth_figure(growth.SIDES, by_formula, growth.SIDES, seconds, "a machine")
    measured, formula = ({text.get_text() for text in axis.texts} for axis in figure.axes)
    assert {"R = 1: 8.29", "R = 2: 16.58", "R = 3: 24.88", "non-local: 108.16"} <= formula
    assert {"R = 1", "non-local"} <= measured
    assert "not measured yet" in {
        text.get_text()
        for text in charts.growth_figure((97,), growth.formula_growth((97,))).axes[1].texts
    }
