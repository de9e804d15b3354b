"""Damaged inputs by the thousand: pictures, masks, lists, classes.json, checkpoints, run folders. Everything is read or refused in words.

Counted as faults: an exception that is none of the library's, a hang, a crash of the interpreter, a program that is started. The same seed
makes the same inputs.
"""

import argparse
import faulthandler
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ccnet_lab.ending import ending

import numpy as np
import torch
from PIL import Image

from ccnet_lab.configs import get_config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.check import examine, report_text
from ccnet_lab.data.datasets import open_own, open_split, read_labels
from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.data.images import read_image
from ccnet_lab.errors import LabError
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.model.diagnosis import diagnose
from ccnet_lab.model.weights import save_weights
from ccnet_lab.reports.board import read_board
from ccnet_lab.reports.logs import read_log
from ccnet_lab.runs import Run

AT_ONCE, PATIENCE = 25, 60.0  # inputs per process; seconds without a result after which it hangs
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn")
TEXTS = (
    "[",
    "{",
    '"',
    "\ufeff",
    "\0",
    "nan",
    "1e999",
    "-1",
    "null",
    "\\",
    "../",
    "\n\n",
    ",",
    "9" * 40,
    "é",
    "中",
)


def main() -> int:
    """Make the inputs, read each, print a table; 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=5000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ccnet_lab_fuzz_"))
    try:
        kinds = originals(folder)
        found = [
            fault
            for first in range(0, args.count, AT_ONCE)
            for fault in batch(kinds, folder, args, first)
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    told = Counter((kind, what) for kind, what, _ in found)
    print(
        *(f"{kind:12} {what:10} {count:>6}" for (kind, what), count in sorted(told.items())),
        sep="\n",
    )
    faults = [
        f"{kind} {what}: {details}"
        for kind, what, details in found
        if what not in ("read", "refused", "memory")
    ]
    peak = max(float(details) for _, what, details in found if what == "memory")
    print(
        f"{args.count:,} inputs, {len(faults)} faults; most memory of a process: {peak / 2**20:.0f} MiB",
        *faults[:20],
        sep="\n",
    )
    return int(bool(faults))


def batch(
    kinds: dict[str, Any], folder: Path, args: argparse.Namespace, first: int
) -> list[tuple[str, str, str]]:
    """(kind, what became of it, details) of some inputs, read in a process of their own, begun again after one that ends or hangs it."""
    found: list[tuple[str, str, str]] = []
    numbers = list(range(first, min(first + AT_ONCE, args.count)))
    while numbers:
        mine, theirs = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(
            target=read_all, args=(theirs, kinds, folder, args.seed, numbers)
        )
        child.start()
        theirs.close()
        try:
            while numbers and mine.poll(PATIENCE):
                found.append(mine.recv())
                numbers.pop(0)
            how = "hang"
            if not numbers and mine.poll(PATIENCE):
                found.append(mine.recv())  # the memory it took
        except EOFError:
            child.join()
            code = child.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit {code}"
        if numbers:
            found.append((name_of(kinds, numbers[0]), how, f"number {numbers.pop(0)}"))
        child.kill()
        child.join()
    return found


def name_of(kinds: dict[str, Any], number: int) -> str:
    """The kind of an input."""
    return list(kinds)[number % len(kinds)]


def read_all(pipe: Any, kinds: dict[str, Any], folder: Path, seed: int, numbers: list[int]) -> None:
    """Read the inputs with these numbers; tells the parent of each."""
    started: list[str] = []
    sys.addaudithook(lambda event, _: started.append(event) if event.startswith(PROGRAMS) else None)
    faulthandler.disable()
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    warnings.simplefilter("ignore")
    work = folder / f"work{os.getpid()}"
    for number in numbers:
        kind = name_of(kinds, number)
        samples, read = kinds[kind]
        draw = random.Random(f"{seed} {number}")
        name, content = draw.choice(samples)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            read(work, name, damaged(content, draw))
            what, details = "read", ""
        except LabError as error:
            what, details = "refused", str(error)[:200]
        except BaseException as error:
            what, details = type(error).__name__, f"number {number} ({name}): {error}"[:300]
        if started:
            what, details = "program", f"number {number} ({name}): {started[0]}"
            started.clear()
        pipe.send((kind, what, details))
    pipe.send(("all", "memory", str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)))
    shutil.rmtree(work, ignore_errors=True)


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Bytes changed, lost, doubled or put in; text gets words that parsers stumble over."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5, 30))):
        at, way = draw.randrange(len(data) + 1), draw.randrange(7)
        if way == 0 and at < len(data):
            data[at] = draw.randrange(256)
        elif way == 1 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif way == 2:
            del data[at:]
        elif way == 3:
            del data[at : at + draw.randrange(1, 40)]
        elif way == 4:
            data[at:at] = data[at : at + draw.randrange(1, 200)]
        elif way == 5:
            data[at : at + 4] = draw.choice(
                (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\xff\xff")
            )
        else:
            data[at:at] = draw.choice(TEXTS).encode()
    return bytes(data)


def originals(
    folder: Path,
) -> dict[str, tuple[list[tuple[str, bytes]], Callable[[Path, str, bytes], object]]]:
    """Per kind: sound inputs by name, and how one is read in a fresh folder."""
    rgb = Image.fromarray(make_scene(0).image).resize((48, 40))
    ids = Image.fromarray(make_scene(0).labels).resize((48, 40), Image.Resampling.NEAREST)
    ids.putpalette([k for i in range(256) for k in (i, 255 - i, i)])

    def saved(picture: Image.Image, form: str, **how: Any) -> bytes:
        file = io.BytesIO()
        picture.save(file, form, **how)
        return file.getvalue()

    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = [
        (f"a.{form.lower()}", saved(rgb, form, exif=exif))
        for form in ("PNG", "JPEG", "WEBP", "TIFF")
    ]
    pictures += [
        (f"b.{form.lower()}", saved(rgb, form))
        for form in ("BMP", "GIF", "PPM", "AVIF")
        if form in Image.SAVE
    ]
    pictures += [
        ("c.tiff", saved(rgb, "TIFF", compression=way))
        for way in ("tiff_lzw", "jpeg", "packbits", "tiff_deflate")
    ]
    pictures += [
        ("d.png", saved(rgb.convert("RGBA"), "PNG")),
        ("e.gif", saved(rgb, "GIF", save_all=True, append_images=[rgb.rotate(9)])),
    ]
    masks = [(f"m.{form.lower()}", saved(ids, form)) for form in ("PNG", "BMP", "TIFF", "GIF")] + [
        ("m.webp", saved(rgb, "WEBP", lossless=True))
    ]
    small = get_config("demo")
    weights = folder / "demo.safetensors"
    save_weights(build_model(small), weights, small)
    file = io.BytesIO()
    torch.save(
        {
            "model": {
                "cca.gamma.scale": torch.zeros(()),
                "decoder.4.weight": torch.zeros(21, 8, 1, 1),
            },
            "epoch": 3,
        },
        file,
    )
    run = Run.create(folder / "run", small)
    run.log({"step": 1, "loss": 0.5})
    run.write_training({"seed": 0, "total_steps": 5})
    run.write_scores({"miou": 0.5, "per_class_iou": {}, "protocol": {"dataset": "beacons"}})
    stored = [
        (path.name, path.read_bytes())
        for path in run.folder.iterdir()
        if path.suffix in (".json", ".jsonl")
    ]
    log = b"2024-02-01 10:00:00 INFO  {'cur_epoch': 1, 'cur_iter': 50, 'max_iters': 39660, 'loss_total': 1.5, 'learning_rate': 0.01}\n"
    log += b"2024-02-01 11:00:00 INFO  {'iou': {'dog': 0.5, 'cat': nan}, 'miou': nan}\n"

    def picture(work: Path, name: str, content: bytes) -> None:
        (work / name).write_bytes(content)
        read_image(content)
        read_image(work / name, as_published=True)

    def mask(work: Path, name: str, content: bytes) -> None:
        (work / name).write_bytes(content)
        read_labels(work / name, get_dataset("beacons"))

    def own(work: Path, name: str, content: bytes) -> None:
        for part in ("images", "masks"):
            (work / "own" / part).mkdir(parents=True)
        for number in range(4):
            (work / "own" / "images" / f"{number}.png").write_bytes(pictures[0][1])
            Image.fromarray(np.full((40, 48), number % 2, np.uint8)).save(
                work / "own" / "masks" / f"{number}.png"
            )
        (work / "own" / "classes.json").write_text('["a", "b"]')
        (work / "own" / name).write_bytes(content)
        dataset = open_own(work / "own")
        report_text(examine(dataset, ""))
        open_split(dataset, "").read(0)

    def checkpoint(work: Path, name: str, content: bytes) -> None:
        (work / name).write_bytes(content)
        assert diagnose(work / name).text

    def run_folder(work: Path, name: str, content: bytes) -> None:
        shutil.copytree(run.folder, work / "run")
        (work / "run" / name).write_bytes(content)
        read_board([work])
        opened = Run.open(work / "run")
        print(opened.config, opened.metrics(), opened.finished, opened.training)

    def training_log(work: Path, name: str, content: bytes) -> None:
        (work / name).write_bytes(content)
        read_log(work / name, "ccnet_resnet50os8_voc")

    return {
        "picture": (pictures, picture),
        "mask": (masks, mask),
        "list": ([("train.txt", b"0\n1\n2\n"), ("val.txt", b"3\n")], own),
        "classes.json": (
            [
                (
                    "classes.json",
                    json.dumps({"names": ["a", "b"], "ids": [0, 1], "ignore_id": 9}).encode(),
                )
            ],
            own,
        ),
        "checkpoint": (
            [("demo.safetensors", weights.read_bytes()), ("a.pth", file.getvalue())],
            checkpoint,
        ),
        "run": (stored, run_folder),
        "log": ([("a.log", log)], training_log),
    }


if __name__ == "__main__":
    ending(main)
