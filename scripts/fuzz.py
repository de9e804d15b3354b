"""Read thousands of damaged inputs: pictures, masks, archives, caches, checkpoints, runs, logs.

Each must be read or refused by one of the library's own errors. Any other exception, a hang, a
crash of the interpreter, a program that is started, and other pixels from a damaged cache count as
faults. The same seed makes the same inputs. With --checked (Linux with glibc) a decoder that writes
outside its memory is stopped where it does.
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
import tarfile
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ccnet_lab.ending import ending, guarded


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=5000, help="inputs in all, of all kinds alike")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checked", action="store_true", help="check addresses; twice as slow")
    return parser


if __name__ == "__main__":
    guarded(options().parse_args)  # --help need not wait for what follows

import numpy as np
import torch
from PIL import Image

from ccnet_lab.configs import get_config
from ccnet_lab.data.cache import build_cache, read_pair
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.check import examine, report_text
from ccnet_lab.data.datasets import open_own, open_split, read_labels
from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.data.images import read_image
from ccnet_lab.data.prepare import unpack
from ccnet_lab.errors import LabError
from ccnet_lab.evaluation.metrics import Confusions, load_confusions
from ccnet_lab.evaluation.reach import Reach
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.model.costs import Measured, machine, measured_costs
from ccnet_lab.model.diagnosis import diagnose
from ccnet_lab.model.weights import save_weights
from ccnet_lab.reports.board import read_board
from ccnet_lab.reports.logs import read_log
from ccnet_lab.runs import Run

AT_ONCE, PATIENCE = 25, 60.0  # inputs per process; seconds without a result that count as a hang
CHECKED = {  # what makes glibc and Python look for overwritten memory
    "LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165",
    "PYTHONMALLOC": "debug",
}  # fmt: skip
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn")
TEXTS = (
    *("[", "{", '"', "\ufeff", "\0", "nan", "1e999", "-1", "null"),
    *("\\", "../", "\n\n", ",", "9" * 40, "é", "中"),
)
NUMBERS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\xff\xff")
LOG = b"""\
2020-12-01 10:00:00 INFO     [EPOCH]: 1/60, [BATCH]: 50/661, [LEARNING_RATE]: 0.0099
\t[LOSS]: loss_aux 0.5, loss_cls 1.0, total 1.5,
2020-12-01 11:00:00 INFO     {'iou': {'dog': 0.5, 'cat': nan}, 'miou': 0.5}
"""
Samples = list[tuple[str, bytes]]
CLASSES = {  # as labelling tools write them
    "classes.json": '{"names": ["a", "b"], "ids": [0, 1], "ignore_id": 9}',
    "labelmap.txt": "# label:color_rgb:parts:actions\na:0,0,0::\nb:1,1,1::\n",
    "label_colors.txt": "0 0 0 a\n1 1 1 b\n",
    "dataset_meta.json": '{"label_map": {"0": "a", "1": "b"}}',
    "class_names.txt": "a\nb\n",
    "_classes.csv": "Pixel Value, Class\n0, a\n1, b\n",
    "meta.json": '{"classes": [{"title": "a", "color": "#010101"}]}',
}
REACH = b'{"on": [3, 4], "on_right": [1, 2], "off": [5, 6], "off_right": [2, 2]}'


class Kind(NamedTuple):
    """Sound inputs by name, and how a damaged one is read in an empty folder."""

    samples: Samples
    read: Callable[[Path, str], object]  # (folder, name of the file in it)


class Result(NamedTuple):
    """What became of an input."""

    kind: str
    outcome: str  # "read" or "refused"; anything else is a fault
    details: str
    memory: int = 0  # bytes of the process at most while it was read


def main() -> int:
    """Make the inputs, read each, print a table; 1 if there was a fault."""
    args = options().parse_args()
    if args.checked and CHECKED.items() - os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **CHECKED})
    folder = Path(tempfile.mkdtemp(prefix="ccnet_lab_fuzz_"))
    results = []
    try:
        kinds = make_kinds(folder)
        for first in range(0, args.count, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, args.count))
            results += batch(kinds, folder, args.seed, [*numbers])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    counts = Counter(result[:2] for result in results)
    for (kind, outcome), count in sorted(counts.items()):
        print(f"{kind:18} {outcome:10} {count:>6}")
    fine = ("read", "refused")
    faults = [f"{r.kind} {r.outcome}: {r.details}" for r in results if r.outcome not in fine]
    most = max(results, key=lambda result: result.memory)
    memory = f"most memory of a process: {most.memory / 2**20:.0f} MiB, {most.kind} {most.details}"
    print(f"{args.count:,} inputs, {len(faults)} faults; {memory}", *faults[:20], sep="\n")
    return int(bool(faults))


def batch(kinds: dict[str, Kind], folder: Path, seed: int, numbers: list[int]) -> list[Result]:
    """Read some inputs in a process, and in a new one after an input that ended or hung it."""
    found = []
    while numbers:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(
            target=read_all, args=(sender, kinds, folder, seed, numbers)
        )
        process.start()
        sender.close()
        outcome = "hang"
        try:
            while numbers and receiver.poll(PATIENCE):
                found.append(receiver.recv())
                numbers.pop(0)
        except EOFError:
            process.join()
            code = process.exitcode or 0
            outcome = f"signal {-code}" if code < 0 else f"exit {code}"
        if numbers:
            number = numbers.pop(0)
            found.append(Result(kind_of(kinds, number), outcome, f"number {number}"))
        process.kill()
        process.join()
    return found


def kind_of(kinds: dict[str, Kind], number: int) -> str:
    """The kind of an input."""
    return list(kinds)[number % len(kinds)]


def read_all(
    sender: Any, kinds: dict[str, Kind], folder: Path, seed: int, numbers: list[int]
) -> None:
    """Read the inputs with these numbers, and send the result of each."""
    started: list[str] = []
    sys.addaudithook(lambda event, _: started.append(event) if event.startswith(PROGRAMS) else None)
    faulthandler.disable()
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    warnings.simplefilter("ignore")
    work = folder / f"work{os.getpid()}"
    for number in numbers:
        kind = kind_of(kinds, number)
        draw = random.Random(f"{seed} {number}")
        name, content = draw.choice(kinds[kind].samples)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        (work / name).write_bytes(damaged(content, draw))
        peak_memory(begin=True)
        try:
            kinds[kind].read(work, name)
            outcome, details = "read", ""
        except LabError as error:
            outcome, details = "refused", f"number {number} ({name}): {error}"[:300]
        except BaseException as error:
            outcome, details = type(error).__name__, f"number {number} ({name}): {error}"[:300]
        if started:
            outcome, details = "program", f"number {number} ({name}): {started[0]}"
            started.clear()
        sender.send(Result(kind, outcome, details, peak_memory()))
    shutil.rmtree(work, ignore_errors=True)


def peak_memory(begin: bool = False) -> int:
    """Bytes that this process had at most since it last began to count; on Linux, else ever."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if begin:
        Path("/proc/self/clear_refs").write_text("5")
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return 1024 * int(lines["VmHWM"].split()[0])


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Bytes changed, lost, doubled or inserted, among them text that parsers stumble over."""
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
            data[at : at + 4] = draw.choice(NUMBERS)
        else:
            data[at:at] = draw.choice(TEXTS).encode()
    return bytes(data)


# Kinds of inputs


def make_kinds(folder: Path) -> dict[str, Kind]:
    """Every kind of input; a run and a checkpoint are made in the folder."""
    scene = make_scene(0)
    rgb = Image.fromarray(scene.image).resize((48, 40))
    ids = Image.fromarray(scene.labels).resize((48, 40), Image.Resampling.NEAREST)
    ids.putpalette([k for i in range(256) for k in (i, 255 - i, i)])
    masks = [(f"m.{form.lower()}", saved(ids, form)) for form in ("PNG", "BMP", "TIFF", "GIF")]
    masks += [("m.webp", saved(rgb, "WEBP", lossless=True))]
    run = make_run(folder)
    stored = [path for path in run.iterdir() if path.suffix in (".json", ".jsonl")]
    own = partial(read_own, saved(rgb, "PNG"))
    rows = [asdict(Measured("demo", 1.0, 5, machine(), torch.__version__))]
    costs = json.dumps(rows).encode()
    by_format: dict[str, Samples] = {}
    for name, content in pictures(rgb):
        by_format.setdefault(name.partition(".")[2], []).append((name, content))
    return {
        **{f"picture {form}": Kind(found, read_picture) for form, found in by_format.items()},
        "mask": Kind(masks, lambda work, name: read_labels(work / name, get_dataset("beacons"))),
        "list": Kind([("train.txt", b"0\n1\n2\n"), ("val.txt", b"3\n")], own),
        **{f"classes {name}": Kind([(name, text.encode())], own) for name, text in CLASSES.items()},
        "archive": Kind(archives(), read_archive),
        "cache": Kind(*caches(folder, saved(rgb, "PNG"))),
        "confusions": Kind(
            [("a.npz", confusions(folder))], lambda w, name: load_confusions(w / name)
        ),
        "reach": Kind([("reach.json", REACH)], lambda w, name: Reach.read(w / name)),
        "costs": Kind([("measured_costs.json", costs)], read_costs),
        "checkpoint": Kind(checkpoints(folder), read_checkpoint),
        "run": Kind([(path.name, path.read_bytes()) for path in stored], partial(read_run, run)),
        "log": Kind([("a.log", LOG)], lambda w, name: read_log(w / name, "ccnet_resnet50os8_voc")),
    }


def archives() -> Samples:
    """A zip, deflated and with LZMA, and a tar of two files."""
    found = []
    for name, way in (("a.zip", zipfile.ZIP_DEFLATED), ("b.zip", zipfile.ZIP_LZMA)):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", way) as packed:
            for number in range(2):
                packed.writestr(f"top/part/{number}.txt", "text " * 200)
        found.append((name, file.getvalue()))
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tape:
        for number in range(2):
            about = tarfile.TarInfo(f"top/part/{number}.txt")
            about.size = 1000
            tape.addfile(about, io.BytesIO(b"text " * 200))
    return [*found, ("c.tar.gz", file.getvalue())]


def read_archive(work: Path, name: str) -> None:
    """As a data set's archive is unpacked."""
    unpack(work / name, {"top/part": work / "unpacked"})


def caches(folder: Path, picture: bytes) -> tuple[Samples, Callable[[Path, str], object]]:
    """A cache file of a pair, and its reading, which must not give other pixels in silence."""
    own = folder / "cached"
    for part in ("images", "masks"):
        (own / part).mkdir(parents=True)
    (own / "images" / "0.png").write_bytes(picture)
    Image.fromarray(np.eye(40, 48, dtype=np.uint8)).save(own / "masks" / "0.png")
    (own / "classes.json").write_text('["a", "b"]')
    split = open_split(open_own(own), "")
    pairs = replace(split, cache=folder / "cache")
    build_cache(pairs, say=lambda _: None)
    whole, (path,) = split.read(0), (folder / "cache").iterdir()

    def read(work: Path, name: str) -> None:
        found = read_pair(replace(split, cache=work), 0)
        assert np.array_equal(found.image, whole.image), "other pixels"
        assert np.array_equal(found.labels, whole.labels), "other labels"

    return [(path.name, path.read_bytes())], read


def confusions(folder: Path) -> bytes:
    """The confusion matrices of two images."""
    cells, counts = np.array([0, 3], np.uint16), np.array([9, 7], np.uint32)
    found = Confusions.collect(["a", "b"], 2, [(cells, counts)] * 2)
    found.save(folder / "confusions.npz")
    return (folder / "confusions.npz").read_bytes()


def read_costs(work: Path, name: str) -> None:
    """As the board reads the costs that were measured here."""
    os.environ["CCNET_LAB_HOME"] = str(work)
    print(*(f"{row.seconds:.3f} {row.peak_bytes / 2**20:.0f}" for row in measured_costs().values()))


def saved(picture: Image.Image, form: str, **options: Any) -> bytes:
    """A picture's file."""
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def pictures(rgb: Image.Image) -> Samples:
    """A picture in every format, and in several forms of TIFF, PNG and GIF."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = {f"a.{form}": saved(rgb, form, exif=exif) for form in ("png", "jpeg", "webp", "tiff")}
    plain = {f"b.{form}": form for form in ("bmp", "gif", "ppm", "avif")}
    found = {name: saved(rgb, form) for name, form in plain.items() if form.upper() in Image.SAVE}
    for number, way in enumerate(("tiff_lzw", "jpeg", "packbits", "tiff_deflate")):
        found[f"c{number}.tiff"] = saved(rgb, "TIFF", compression=way)
    found["d.png"] = saved(rgb.convert("RGBA"), "PNG")
    found["e.gif"] = saved(rgb, "GIF", save_all=True, append_images=[rgb.rotate(9)])
    return [*turned.items(), *found.items()]


def read_picture(work: Path, name: str) -> None:
    """As app and evaluation read it."""
    read_image((work / name).read_bytes())
    read_image(work / name, as_published=True)


def read_own(picture: bytes, work: Path, name: str) -> None:
    """As the doctor and a training read your own data, of four pairs and the damaged file."""
    own = work / "own"
    for part in ("images", "masks"):
        (own / part).mkdir(parents=True)
    for number in range(4):
        (own / "images" / f"{number}.png").write_bytes(picture)
        mask = Image.fromarray(np.full((40, 48), number % 2, np.uint8))
        mask.save(own / "masks" / f"{number}.png")
    if name not in CLASSES:
        (own / "classes.json").write_text('["a", "b"]')
    shutil.copy(work / name, own / name)
    dataset = open_own(own)
    report_text(examine(dataset, ""))
    open_split(dataset, "").read(0)


def checkpoints(folder: Path) -> Samples:
    """The demo model's file, and a pickle with parts of SSSegmentation's entries."""
    config, path, file = get_config("demo"), folder / "demo.safetensors", io.BytesIO()
    save_weights(build_model(config), path, config)
    entries = {"cca.gamma.scale": torch.zeros(()), "decoder.4.weight": torch.zeros(21, 8, 1, 1)}
    torch.save({"model": entries, "epoch": 3}, file)
    return [(path.name, path.read_bytes()), ("a.pth", file.getvalue())]


def read_checkpoint(work: Path, name: str) -> None:
    """As `python -m ccnet_lab.model.weights` reads it."""
    assert diagnose(work / name).text


def make_run(folder: Path) -> Path:
    """A run folder of one step."""
    run = Run.create(folder / "run", get_config("demo"))
    run.log({"step": 1, "loss": 0.5})
    run.write_training({"seed": 0, "total_steps": 5})
    run.write_scores({"miou": 0.5, "per_class_iou": {}, "protocol": {"dataset": "beacons"}})
    return run.folder


def read_run(folder: Path, work: Path, name: str) -> None:
    """As the board and a resumed training read a run, one of whose files is damaged."""
    run = work / "run"
    shutil.copytree(folder, run)
    shutil.move(work / name, run / name)
    read_board([work])
    opened = Run.open(run)
    print(opened.config, opened.metrics(), opened.finished, opened.training)


if __name__ == "__main__":
    ending(main)
