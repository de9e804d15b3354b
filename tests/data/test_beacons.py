"""data/generated/beacons.py, training/demo.py, the embedded weights: what the demo claims holds."""

import numpy as np
import torch

from ccnet_lab import build_model, load_weights
from ccnet_lab.data.generated import beacons
from ccnet_lab.evaluation.evaluate import HELD_OUT, score_demo
from ccnet_lab.hub import find_weights
from ccnet_lab.training.demo import demo_table, train_demo

SOME = range(HELD_OUT.start, HELD_OUT.start + 100)


def demo(name):
    model = build_model(name).eval()
    load_weights(model, find_weights(name))
    return model


def test_scenes_are_reproducible_and_labelled_by_the_beacon():
    for seed in range(20):
        scene = beacons.make_scene(seed)
        assert np.array_equal(scene.image, beacons.make_scene(seed).image)
        (top, left), colour = scene.beacon, scene.labels.max()
        assert set(np.unique(scene.labels)) == {0, colour}
        square = scene.image[top : top + 6, left : left + 6].reshape(-1, 3).mean(0)
        palette = np.array(beacons.get_dataset("beacons").palette)
        assert np.abs(palette - square).sum(1).argmin() == colour
        assert (scene.labels[top : top + 6, left : left + 6] == 0).all()
        discs = scene.image[scene.labels > 0].astype(int)
        assert (discs.max(1) - discs.min(1)).mean() < 15  # grey: the disc itself says nothing
    assert not np.array_equal(beacons.make_scene(0).image, beacons.make_scene(1).image)


def test_all_four_colours_come_up_alike():
    counts = np.bincount(
        [beacons.make_scene(seed).labels.max() for seed in range(400)], minlength=5
    )
    assert counts[0] == 0
    assert counts[1:].min() > 70


def test_cross_and_reach():
    scene = beacons.make_scene(3)
    on, out = beacons.on_cross(scene), beacons.out_of_reach(scene)
    top, left = scene.beacon
    assert on[top + 3].all()
    assert on[:, left + 3].all()
    assert not (on & out).any()
    assert 0.1 < on.mean() < 0.4
    assert out.mean() > 0.4


def test_out_of_reach_pixels_do_not_depend_on_the_beacon_with_one_step():
    """Recolour the beacon: with R = 1 nothing may change out of reach; with R = 2 it does."""
    model = demo("demo")
    scene = beacons.make_scene(7)
    other = scene.image.copy()
    top, left = scene.beacon
    other[top : top + 6, left : left + 6] = 255 - other[top : top + 6, left : left + 6]
    far = torch.as_tensor(beacons.out_of_reach(scene))

    def upsampled(image, recurrence):
        with torch.inference_mode():
            logits = model(beacons_input(image), recurrence=recurrence).logits
        return torch.nn.functional.interpolate(logits, size=far.shape, mode="bilinear")[0]

    changed = {
        r: (upsampled(scene.image, r) - upsampled(other, r)).abs().amax(0)[far].max().item()
        for r in (1, 2)
    }
    assert changed[1] == 0
    assert changed[2] > 1


def beacons_input(image):
    from ccnet_lab.data.transforms import normalise

    return normalise(image[None])


def test_embedded_models_reach_what_is_claimed():
    two, one = score_demo(demo("demo"), seeds=SOME), score_demo(demo("demo_r1"), seeds=SOME)
    assert two.miou >= 0.95
    assert one.miou <= 0.55
    assert min(two.on_cross, two.off_cross) > 0.94
    assert one.on_cross > 0.9
    assert one.off_cross < 0.4
    assert abs(one.out_of_reach - 0.25) < 0.1  # chance


def test_embedded_files_are_small():
    assert sum(find_weights(name).stat().st_size for name in ("demo", "demo_r1")) < 3_000_000


def test_training_is_reproducible():
    losses = []
    models = [
        train_demo("demo", steps=4, seed=5, on_step=lambda _, loss: losses.append(loss))
        for _ in range(2)
    ]
    for a, b in zip(*(model.state_dict().values() for model in models), strict=True):
        assert torch.equal(a, b)
    assert losses[:4] == losses[4:]


def test_table_names_the_models():
    table = demo_table(
        {"demo": train_demo("demo", steps=1)}, range(HELD_OUT.start, HELD_OUT.start + 2)
    )
    assert table.count("| demo | 2 |") == 2
