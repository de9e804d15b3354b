"""On the cross of a cue and off it, counted by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from ccnet_lab.configs import MINIATURES
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import Sample
from ccnet_lab.errors import RunError
from ccnet_lab.evaluation import reach
from ccnet_lab.model.ccnet import Segmentation


def test_the_cross_of_a_cue():
    """A cue in one cell of 3 x 4: its row and its column, six of twelve cells."""
    cue = np.zeros((24, 32), bool)
    cue[9:12, 17:20] = True  # cell (1, 2)
    found = reach.on_cross(cue, (3, 4))
    wanted = np.zeros((3, 4), bool)
    wanted[1], wanted[:, 2] = True, True
    assert (found == np.kron(wanted, np.ones((8, 8), bool))).all()


class Always(nn.Module):
    """A network that says one class everywhere."""

    def __init__(self, label, classes):
        super().__init__()
        self.label, self.classes = label, classes

    def forward(self, images, **_):
        logits = torch.zeros(len(images), self.classes, *(side // 8 for side in images.shape[2:]))
        logits[:, self.label] = 1
        return Segmentation(logits)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"on": 1}', '{"on": [1e999]}', "[" * 90000, b"\xff",
     '{"on": [2], "on_right": [3], "off": [1], "off_right": [0]}',
     '{"on": [2, 3], "on_right": [1], "off": [1], "off_right": [0]}'],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path, text):
    """More right pixels than there are, missing counts, something else altogether."""
    path = tmp_path / "reach.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RunError, match=r"reach\.json .*delete it"):
        reach.Reach.read(path)


def test_what_is_saved_is_read(tmp_path):
    """The counts of two images."""
    counts = reach.Reach(*np.array([[4, 2], [3, 0], [6, 6], [1, 2]]))
    counts.save(tmp_path / "reach.json")
    assert reach.Reach.read(tmp_path / "reach.json").shares() == (0.5, 0.25)


def test_right_pixels_are_counted_on_the_cross_and_off_it(monkeypatch):
    """Two rubies, one in the lantern's row, and an emerald that the network takes for a ruby."""
    data, config = get_dataset("voc_mini"), MINIATURES["ccnet_resnet50os8_voc_mini"]
    ids = {name: k for k, name in enumerate(data.class_names)}
    labels = np.zeros((96, 96), np.uint8)
    labels[8:16, 8:16] = ids["red lantern"]
    labels[8:16, 40:48] = ids["ruby"]  # in its row
    labels[40:48, 40:44] = ids["ruby"]  # off its cross
    labels[80:88, 80:88] = ids["emerald"]  # off it, too

    class One:
        dataset, name, pairs = data, data.val_split, ()

        def __len__(self):
            return 1

        def read(self, _):
            return Sample("a", np.zeros((96, 96, 3), np.uint8), labels)

    found = reach.measure_reach(Always(ids["ruby"], data.num_classes), One(), config)
    assert [int(part[0]) for part in found] == [64, 64, 96, 32]
    assert found.shares() == (1.0, 1 / 3)
