"""The example pictures of the tab Explore: generated scenes first, then three photographs."""

from importlib.resources import files
from pathlib import Path

import matplotlib

from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.data.images import read_image
from ccnet_lab.draw.pictures import png

SCENE_SEEDS = (10_000_018, 10_000_002, 10_000_005)  # held-out scenes


def write_examples(folder: Path) -> list[str]:
    """Write the examples into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    assets = Path(str(files("ccnet_lab").joinpath("assets")))
    hopper = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    photographs = (assets / "u_street.jpg", assets / "summer_palace.jpg", hopper)
    images = {f"scene_{seed}.png": make_scene(seed).image for seed in SCENE_SEEDS}
    images |= {f"{path.stem}.png": read_image(path) for path in photographs if path.is_file()}
    for name, image in images.items():
        (folder / name).write_bytes(png(image))
    return [str(folder / name) for name in images]
