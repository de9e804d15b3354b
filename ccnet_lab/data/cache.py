"""Decoded pairs of a split on disk, a file each, so that a training sample reads only its crop.

A file is safetensors: `image` (H, W, 3) and `labels` (H, W), uint8, and as metadata what they were
made from, and their checksum, which each process compares once. Decoding is in datasets.py.
"""

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ccnet_lab.data.datasets import Pair, Sample, Split, label_table
from ccnet_lab.data.images import open_picture
from ccnet_lab.downloads import Progress
from ccnet_lab.errors import DataError
from ccnet_lab.files import write_whole

_SUM = "crc32"  # in the metadata: of the image's bytes, then the labels'
_compared: set[tuple[str, int, int]] = set()  # files whose checksum is right: path, time, size


def read_pair(split: Split, index: int) -> Sample:
    """Pair `index` of the split: mapped from its cache file if there is one, else decoded.

    Raises:
        DataError: the cache file is damaged or was made from other files; or as `Split.read`.
    """
    pair = split.pairs[index]
    path = split.cache and _file(split.cache, pair)
    if path is None or not path.is_file():
        return split.read(index)
    return Sample(pair.name, *_mapped(path, _origin(split, pair)))


def build_cache(
    split: Split, say: Callable[[str], None] = print, progress: Progress | None = None
) -> None:
    """Decode every pair that has no sound, up-to-date file yet; called again, it resumes.

    Args:
        say: takes a line with the room needed and free, before anything is written.
        progress: called with (pairs written, pairs to write).

    Raises:
        DataError: the disk has too little room or cannot be written to, or as `Split.read`.
    """
    assert split.cache
    folder, remedy = split.cache, "free some room, or make it a link to a folder on another disk"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        why = f"the cache {folder} cannot be made: {error}"
        raise DataError(f"{why}; change its rights, {remedy}") from None
    lacking = [k for k, pair in enumerate(split.pairs) if not _sound(folder, split, pair)]
    needed = sum(_bytes(split.pairs[k]) for k in lacking)
    todo = f"{len(lacking):,} of the {len(split):,} pairs of {split.name} are still to be decoded"
    room = f"takes {needed / 1e9:,.2f} GB; {free / 1e9:,.2f} GB are free"
    say(f"the cache {folder}: {todo}, which {room}")
    if needed > free:
        more = f"{(needed - free) / 1e9:,.2f} GB more than are free"
        raise DataError(f"the cache {folder} needs {more}; {remedy}")

    def make(index: int) -> None:
        pair = split.pairs[index]
        origin, sample = _origin(split, pair), split.read(index)
        arrays = {"image": sample.image, "labels": sample.labels}
        total = zlib.crc32(sample.labels.tobytes(), zlib.crc32(sample.image.tobytes()))
        about = {**origin, _SUM: f"{total:08x}"}
        write_whole(_file(folder, pair), lambda file: save_file(arrays, file, about), DataError)

    with ThreadPoolExecutor() as pool:
        for done, _ in enumerate(pool.map(make, lacking), 1):
            if progress:
                progress(done, len(lacking))


def _file(folder: Path, pair: Pair) -> Path:
    name = pair.name
    if "/" in name or len(name.encode()) > 200:  # of a subfolder, or too long with our ending
        name = f"{name.replace('/', '_')[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:24]}"
    return folder / f"{name}.safetensors"


def _origin(split: Split, pair: Pair) -> dict[str, str]:
    """What a cache file depends on: both files' size and time, and which ids are which labels."""
    try:
        stats = {"image": pair.image.stat(), "mask": pair.mask.stat()}
    except OSError as error:
        why = f"a file of the pair {pair.name} cannot be found: {error}"
        raise DataError(f"{why}; get the data set again, or delete its folder cache/") from None
    table = label_table(split.dataset, pair.mask.stem.endswith("TrainIds"))
    return {
        "name": pair.name,
        "orientation": "as EXIF says",
        "label_table": f"{zlib.crc32(table.tobytes()):08x}",
        **{k: f"{stat.st_size} bytes, changed {stat.st_mtime_ns}" for k, stat in stats.items()},
    }


def _mapped(path: Path, origin: dict[str, str]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image (H, W, 3) and labels (H, W) of a file, memory-mapped."""
    remedy = "call `python scripts/prepare_data.py` with --cache again, or delete it"
    try:
        content = np.asarray(np.memmap(path, np.uint8, "r"))
        # safetensors: the header's length, the header, the arrays by name
        start = 8 + int.from_bytes(content[:8].tobytes(), "little")
        header = json.loads(content[8:start].tobytes())
        height, width = header["labels"]["shape"]
        if header["image"]["shape"] != [height, width, 3]:
            raise ValueError("its picture and its labels have other sizes")
        image, labels = np.split(content[start:], [3 * height * width])
        arrays = image.reshape(height, width, 3), labels.reshape(height, width)
        made_from = dict(header["__metadata__"])
        _compare(path, content[start:], made_from.pop(_SUM, ""))
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        why = f"the cache file {path} is damaged, or of another program: {error!r}"
        raise DataError(f"{why}; {remedy}") from None
    if made_from != origin:
        other = "another image, mask or table of labels than there is now"
        raise DataError(f"the cache file {path} was made from {other}; {remedy}")
    return arrays


def _compare(path: Path, arrays: NDArray[np.uint8], total: str) -> None:
    """Raise `ValueError` where the checksum is another one; once as long as the file stays."""
    state = path.stat()
    mark = str(path), state.st_mtime_ns, state.st_size
    if mark not in _compared:
        if f"{zlib.crc32(arrays.data):08x}" != total:
            raise ValueError("its checksum is another one, or missing")
        _compared.add(mark)


def _sound(folder: Path, split: Split, pair: Pair) -> bool:
    with suppress(DataError):
        return bool(_mapped(_file(folder, pair), _origin(split, pair)))
    return False


def _bytes(pair: Pair) -> int:
    """Of a pair's arrays; 0 if the image cannot be opened, which `Split.read` reports."""
    with suppress(OSError), open_picture(pair.image) as picture:
        return 4 * picture.width * picture.height
    return 0
