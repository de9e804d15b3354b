"""Facts about data sets: class names, colours, label tables. No torch; reading the files is left to the readers beside it."""

from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files

from ccnet_lab.errors import ConfigError, near

IGNORE = 255  # the label of pixels that count neither in the loss nor in a score


@dataclass(frozen=True)
class Dataset:
    """One data set: where its classes stand and how its files' ids become labels.

    Attributes:
        key: the name used in configurations; `classes/<key>.txt` holds its colours and class names.
        title: the name people use.
        root: its folder below the data root; "" for generated data.
        label_ids: the id in the mask files of class 0, 1, ...; empty where ids are the classes already.
        train_images, val_images: the number of images in the splits the recipe uses.
    """

    key: str
    title: str
    root: str
    train_images: int
    val_images: int
    label_ids: tuple[int, ...] = ()

    @cached_property
    def _rows(self) -> list[tuple[str, str]]:
        text = files("ccnet_lab.data").joinpath("classes", f"{self.key}.txt").read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line and not line.startswith("# ")]
        return [(line[:7], line[8:]) for line in lines]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K class names, in label order."""
        return tuple(name for _, name in self._rows)

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """The data set's own K colours, RGB 0..255, in label order."""
        return tuple((int(c[1:3], 16), int(c[3:5], 16), int(c[5:7], 16)) for c, _ in self._rows)

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self._rows)


_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

DATASETS: dict[str, Dataset] = {
    row.key: row
    for row in (
        Dataset("voc", "PASCAL VOC 2012", "VOCdevkit/VOC2012", 10_582, 1_449),
        Dataset("ade20k", "ADE20K", "ADEChallengeData2016", 20_210, 2_000, tuple(range(1, 151))),
        Dataset("cityscapes", "Cityscapes", "cityscapes", 2_975, 500, _CITYSCAPES_IDS),
        Dataset("camvid", "CamVid", "camvid", 367, 233),
        Dataset("beacons", "Beacons (generated)", "", 16_000, 500),
    )
}


@cache
def get_dataset(key: str) -> Dataset:
    """The data set called `key`; an unknown key raises `ConfigError` naming the near ones."""
    if key not in DATASETS:
        raise ConfigError(f"there is no data set {key!r}; {near(key, DATASETS)}")
    return DATASETS[key]
