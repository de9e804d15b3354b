"""The example pictures of the tab Explore: generated scenes, three photographs, miniatures'."""

from importlib.resources import files
from pathlib import Path

import matplotlib

from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.data.generated.worlds import SEED
from ccnet_lab.data.generated.worlds import make_scene as make_miniature
from ccnet_lab.data.images import read_image
from ccnet_lab.draw.pictures import png

SCENE_SEEDS = (10_000_018, 10_000_002, 10_000_005)  # held-out scenes
MINIATURES = {  # by data set: seed, split and number of a scene that no miniature was trained on
    "voc_mini": (SEED, "val", 0),
    "ade20k_mini": (SEED, "val", 0),
    "cityscapes_mini": (SEED, "val", 0),
}


def write_examples(folder: Path) -> list[str]:
    """Write the examples into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    assets = Path(str(files("ccnet_lab").joinpath("assets")))
    hopper = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    photographs = (assets / "u_street.jpg", assets / "summer_palace.jpg", hopper)
    images = {f"scene_{seed}.png": make_scene(seed).image for seed in SCENE_SEEDS}
    images |= {f"{path.stem}.png": read_image(path) for path in photographs if path.is_file()}
    images |= {f"{key}.png": make_miniature(key, *scene)[0] for key, scene in MINIATURES.items()}
    for name, image in images.items():
        (folder / name).write_bytes(png(image))
    return [str(folder / name) for name in images]
