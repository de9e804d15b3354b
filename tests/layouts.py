"""Small generated data sets in the real layouts: coloured blocks, a colour for each label."""

import numpy as np
from PIL import Image

from ccnet_lab.data.catalog import get_dataset

SIZE = (48, 64)  # height, width


def blocks(
    seed: int, classes: int, size: tuple[int, int] = SIZE, block: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 and (H, W) class ids: blocks of a colour per class, with noise."""
    rng = np.random.default_rng(seed)
    grid = rng.integers(0, min(classes, 6), (-(-size[0] // block), -(-size[1] // block)))
    labels = np.kron(grid, np.ones((block, block), int))[: size[0], : size[1]].astype(np.uint8)
    colours = np.random.default_rng(0).integers(20, 235, (classes, 3))
    image = colours[labels] + rng.integers(-15, 16, (*size, 3))
    return image.clip(0, 255).astype(np.uint8), labels


def write(path, array, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    if palette:
        picture = picture.convert("P") if picture.mode != "L" else picture
        picture.putpalette(
            [v for colour in np.random.default_rng(1).integers(0, 256, (256, 3)) for v in colour]
        )
    picture.save(path)


def make_voc(root, train=4, val=2):
    folder, names = root / "VOCdevkit" / "VOC2012", {}
    for split, count in (("trainaug", train), ("val", val)):
        names[split] = [f"2007_{split}{i:03d}" for i in range(count)]
        for i, name in enumerate(names[split]):
            image, labels = blocks(i + (50 if split == "val" else 0), 21)
            labels[:2] = 255
            write(folder / "JPEGImages" / f"{name}.jpg", image)
            part = "SegmentationClassAug" if split == "trainaug" and i % 2 else "SegmentationClass"
            write(folder / part / f"{name}.png", labels, palette=part == "SegmentationClass")
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, entries in names.items():
        (lists / f"{split}.txt").write_text("\n".join(entries) + "\n")


def make_ade20k(root, train=4, val=2):
    folder = root / "ADEChallengeData2016"
    for split, count in (("training", train), ("validation", val)):
        for i in range(count):
            image, labels = blocks(i + (50 if split == "validation" else 0), 150)
            labels = labels + 1  # 0 is "other"
            labels[:, :2] = 0
            write(folder / "images" / split / f"ADE_{i:08d}.jpg", image)
            write(folder / "annotations" / split / f"ADE_{i:08d}.png", labels)


def make_cityscapes(root, train=4, val=2):
    ids = np.array(get_dataset("cityscapes").label_ids, np.uint8)
    for split, count, city in (("train", train, "aachen"), ("val", val, "munster")):
        for i in range(count):
            image, labels = blocks(i + (50 if split == "val" else 0), 19)
            stem = f"{city}_{i:06d}_000019"
            write(
                root / "cityscapes" / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png",
                image,
            )
            mask = ids[labels]
            mask[-3:] = 1  # ego vehicle: ignored
            write(
                root / "cityscapes" / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", mask
            )


def make_camvid(root, train=8, val=4, test=3):
    for split, count in (("train", train), ("val", val), ("test", test)):
        for i in range(count):
            image, labels = blocks({"train": 0, "val": 100, "test": 200}[split] + i, 11)
            labels[0] = 11
            write(root / "camvid" / split / f"{split}_{i:03d}.png", image)
            write(root / "camvid" / f"{split}annot" / f"{split}_{i:03d}.png", labels)
