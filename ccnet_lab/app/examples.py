"""The example pictures of the tab Explore: generated scenes, three photographs, miniatures'."""

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.data.generated.worlds import SEED, WORLDS
from ccnet_lab.data.generated.worlds import make_scene as make_miniature
from ccnet_lab.data.images import read_image
from ccnet_lab.draw.pictures import png

SCENE_SEEDS = (10_000_018, 10_000_002, 10_000_005)  # held-out scenes
GENERATED = ("beacons", *WORLDS)  # data sets whose pictures are scenes, not photographs


def write_examples(folder: Path) -> dict[str, str]:
    """Write the examples into `folder`; returns the data set that each is like, by its path.

    That is "" for photographs that are like those of none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    assets = Path(str(files("ccnet_lab").joinpath("assets")))
    package = find_spec("matplotlib")  # not imported: a sixth of a second
    plots = Path(str(package.origin)).parent if package else assets
    hopper = plots / "mpl-data" / "sample_data" / "grace_hopper.jpg"
    street = assets / "u_street.jpg"
    images = {f"scene_{seed}.png": (make_scene(seed).image, "beacons") for seed in SCENE_SEEDS}
    images |= {
        f"{path.stem}.png": (read_image(path), "camvid" if path == street else "")
        for path in (street, assets / "summer_palace.jpg", hopper)
        if path.is_file()
    }
    images |= {f"{key}.png": (make_miniature(key, SEED, "val", 0)[0], key) for key in WORLDS}
    for name, (image, _) in images.items():
        (folder / name).write_bytes(png(image))
    return {str(folder / name): like for name, (_, like) in images.items()}
