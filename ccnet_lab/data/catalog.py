"""Facts about data sets: class names, colours, which id is which label. No torch; finding and reading the files is in datasets.py."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

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
        ignored_ids: ids in the mask files that stand for no class; `IGNORE` always does.
        train_split, val_split: what is trained on and what is scored on.
        train_images, val_images: the number of images in these splits; 0 where it isn't known beforehand.
        classes: (colour "#rrggbb", name) of each class, for data sets that have no file in `classes/`.
    """

    key: str
    title: str
    root: str
    train_images: int
    val_images: int
    label_ids: tuple[int, ...] = ()
    ignored_ids: tuple[int, ...] = ()
    train_split: str = "train"
    val_split: str = "val"
    classes: tuple[tuple[str, str], ...] = ()

    @cached_property
    def _rows(self) -> Iterable[tuple[str, str]]:
        if self.classes:
            return self.classes
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
        return len(self.class_names)

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON; `register` takes them back."""
        return asdict(self)


_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

DATASETS: dict[str, Dataset] = {
    row.key: row
    for row in (
        Dataset("voc", "PASCAL VOC 2012", "VOCdevkit/VOC2012", 10_582, 1_449, train_split="trainaug"),
        Dataset("ade20k", "ADE20K", "ADEChallengeData2016", 20_210, 2_000, tuple(range(1, 151)), (0,), "training", "validation"),
        Dataset(
            "cityscapes", "Cityscapes", "cityscapes", 2_975, 500, _CITYSCAPES_IDS, tuple(i for i in range(34) if i not in _CITYSCAPES_IDS)
        ),
        Dataset("camvid", "CamVid", "camvid", 468, 233, ignored_ids=(11,), train_split="trainval", val_split="test"),
        Dataset("beacons", "Beacons (generated)", "", 16_000, 500),
    )
}


def get_dataset(key: str) -> Dataset:
    """The data set called `key`; an unknown key raises `ConfigError` naming the near ones."""
    if key not in DATASETS:
        raise ConfigError(f"there is no data set {key!r}; {near(key, DATASETS)}")
    return DATASETS[key]


def register(dataset: Dataset | dict[str, Any]) -> Dataset:
    """Make a data set of one's own known under its key; the same one twice is fine.

    Raises:
        ConfigError: the key belongs to another data set, or the mapping is none of `to_dict`.
    """
    if not isinstance(dataset, Dataset):
        try:
            lists = {name: tuple(value) for name, value in dataset.items() if isinstance(value, list | tuple)}
            lists["classes"] = tuple((str(colour), str(name)) for colour, name in dataset["classes"])
            dataset = Dataset(**{**dataset, **lists})
        except (TypeError, KeyError, ValueError) as error:
            raise ConfigError(f"these fields make no data set: {error}") from None
    known = DATASETS.setdefault(dataset.key, dataset)
    if known.class_names != dataset.class_names:
        raise ConfigError(f"the key {dataset.key!r} belongs to {known.title} with {known.num_classes} classes; rename the folder")
    if dataset.classes:
        DATASETS[dataset.key] = dataset
    return DATASETS[dataset.key]
