"""explore/recurrence.py: changes counted by hand, masks that fit or not, the beacons demo."""

import numpy as np
import pytest
from PIL import Image
from planted import beacon_view

from ccnet_lab import ConfigError, Explorer, ImageError
from ccnet_lab.data.catalog import IGNORE
from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.errors import DataError
from ccnet_lab.evaluation.evaluate import HELD_OUT, score_demo
from ccnet_lab.explore.recurrence import beacon_accuracy, compare_recurrences, read_mask


@pytest.fixture(scope="module")
def demo():
    return Explorer.open("demo")


@pytest.fixture(scope="module")
def view(demo):
    return demo.look(make_scene(10_000_018).image)


def test_changes_are_against_the_trained_recurrence(view):
    found = compare_recurrences(view)
    assert found.trained == 2
    assert found.gamma == pytest.approx(1.03, abs=0.01)
    assert not found.gamma_near_zero
    assert [at.recurrence for at in found.at] == [0, 1, 2, 3]
    assert found.at[2].changed_share == 0
    assert found.at[2].flips == ()
    for at in found.at:
        assert np.array_equal(at.labels, view.labels_at(at.recurrence))
        assert np.array_equal(at.changed, at.labels != view.labels)
        assert at.changed_share == pytest.approx(at.changed.mean())
        assert sum(flip.pixels for flip in at.flips) == at.changed.sum()
        assert [flip.pixels for flip in at.flips] == sorted(
            (flip.pixels for flip in at.flips), reverse=True
        )
        for flip in at.flips:
            assert (
                flip.pixels == ((view.labels == flip.before) & (at.labels == flip.after)).sum() > 0
            )
            assert flip.share == pytest.approx(flip.pixels / 96**2)
        assert at.scores is None
    assert found.at[1].changed_share > 0.01


def test_one_step_reaches_the_cross_and_two_reach_everything():
    found = compare_recurrences(beacon_view(5, 7, (3, 2), stride=1), (1, 2))
    cross = np.zeros((5, 7), bool)
    cross[3] = cross[:, 2] = True
    assert np.array_equal(found.at[0].labels == 1, cross)
    assert (found.at[1].labels == 1).all()
    (flip,) = found.at[0].flips
    assert flip[:3] == (1, 0, 24)


def test_with_gamma_near_zero_every_recurrence_is_the_same():
    found = compare_recurrences(beacon_view(5, 7, (3, 2), gamma=0.001))
    assert found.gamma_near_zero
    assert [at.changed_share for at in found.at] == [0, 0, 0, 0]


def test_scores_with_a_mask(view):
    labels = make_scene(10_000_018).labels.copy()
    disc = int(labels.max())
    labels[:20] = IGNORE
    found = compare_recurrences(view, mask=labels)
    for at in found.at:
        counted = labels != IGNORE
        both = ((at.labels == disc) & (labels == disc) & counted).sum()
        either = (((at.labels == disc) | (labels == disc)) & counted).sum()
        assert at.scores.iou[disc] == pytest.approx(both / either)
    assert found.at[2].scores.miou > 0.9 > found.at[1].scores.miou
    assert np.isnan(found.at[2].scores.iou).any()


def test_masks_that_do_not_fit(view):
    with pytest.raises(ImageError, match="the mask is 40 x 30 pixels and the image 96 x 96"):
        compare_recurrences(view, mask=np.zeros((30, 40), np.uint8))
    mask = np.full((96, 96), IGNORE, np.uint8)
    mask[0, :3] = 0, 7, 9
    with pytest.raises(ImageError, match="no classes here: 7, 9; expected 0 to 4, or 255"):
        compare_recurrences(view, mask=mask)


def test_masks_of_other_types(view):
    labels = make_scene(10_000_018).labels
    expected = compare_recurrences(view, (2,), labels).at[0].scores.miou
    assert compare_recurrences(view, (2,), labels.astype(np.int64)).at[0].scores.miou == expected
    for kind in (np.int8, np.int64):
        mask = labels.astype(kind)
        mask[0, :2] = -1, -7
        with pytest.raises(ImageError, match="no classes here: -7, -1; expected 0 to 4, or 255"):
            compare_recurrences(view, mask=mask)
    for kind in (np.float32, bool):
        with pytest.raises(
            ImageError, match=f"the mask holds {np.dtype(kind)}; expected class ids as integers"
        ):
            compare_recurrences(view, mask=labels.astype(kind))


def test_masks_from_files(view, tmp_path):
    labels = make_scene(10_000_018).labels
    path = tmp_path / "mask.png"
    picture = Image.fromarray(labels)
    picture.save(path)
    assert np.array_equal(read_mask(path, view), labels)
    picture.putpalette([9, 8, 7] * 256)
    picture.save(path)
    assert np.array_equal(read_mask(path, view), labels)
    picture.convert("RGB").save(path)
    with pytest.raises(DataError, match="colour picture"):
        read_mask(path, view)
    picture.resize((48, 96)).save(path)
    with pytest.raises(ImageError, match="48 x 96 pixels and the image 96 x 96"):
        read_mask(path, view)
    Image.fromarray(np.full((96, 96), 5, np.uint8)).save(path)
    with pytest.raises(DataError, match="does not have: 5"):
        read_mask(path, view)


def test_a_mask_s_ids_are_the_data_set_s(picture, tmp_path):
    street = Explorer.open("street").look(picture(24, 32))
    ids = np.tile(np.arange(12, dtype=np.uint8), (24, 3))[:, :32]
    Image.fromarray(ids).save(tmp_path / "mask.png")
    assert np.array_equal(
        read_mask(tmp_path / "mask.png", street), np.where(ids == 11, IGNORE, ids)
    )  # CamVid's 11 is void


def test_beacons_live(demo):
    calls, some = [], HELD_OUT[:12]
    found = beacon_accuracy(demo, (1, 2), some, progress=lambda *call: calls.append(call))
    assert found == {r: score_demo(demo.model, r, some) for r in (1, 2)}
    assert found[2].off_cross > 0.9
    assert found[1].off_cross < 0.5
    assert calls == [(1, 2), (2, 2)]
    with pytest.raises(ConfigError, match="trained on CamVid and knows no beacons; open 'demo'"):
        beacon_accuracy(Explorer.open("street"))
    rounded = beacon_accuracy(Explorer.open("demo", precision="bf16"), (1, 2), some)
    assert np.allclose([*rounded.values()], [*found.values()], atol=0.02)
