"""The messages of SSSegmentation's logs and what they say, as dictionaries; what becomes of that is in logs.py.

Nothing in a log is ever evaluated as Python.
"""

import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

LONGEST = 1 << 16  # characters of one message that are looked at

HEAD = re.compile(
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d\S{0,9} {1,9}(?:DEBUG|INFO|WARNING|ERROR)\b[ \t]*|^(?=\{['\"]|\[epoch\])",
    re.I,
)
_TOKEN = re.compile(
    r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"|\b(?:np\.|numpy\.)?float(?:16|32|64)\(([-+\w.]{1,40})\)|\b(?:None|True|False|nan|inf)\b"
)
_JSON = {
    "None": "null",
    "True": "true",
    "False": "false",
    "nan": "NaN",
    "inf": "Infinity",
    "-inf": "-Infinity",
}
_PAIR = re.compile(r"\[?\b([a-z][a-z_ ]{0,30})\]?[:=] ?([^\s,\]]{1,40})", re.I)
_LOSS = re.compile(r"(\w{1,40}) (-?(?:\d[\d.]{0,30}(?:e[-+]?\d{1,3})?|nan|inf))\b")


def messages(path: Path, remarks: dict[str, None]) -> Iterator[tuple[int, str]]:
    """(number of its first line, its first `LONGEST` characters) of each message, however long lines are; told apart by their time."""
    with path.open("rb") as raw:
        magic = raw.read(2)
        raw.seek(0)
        stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if magic == b"\x1f\x8b" else raw  # type: ignore[assignment]
        encoding = "utf-16" if magic in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        lines = io.TextIOWrapper(stream, encoding, errors="replace", newline=None)
        number = foreign = size = 0
        first, parts, fresh = 1, [""], True
        try:
            while line := lines.readline(LONGEST):
                number, foreign = number + fresh, foreign + ("\ufffd" in line)
                cuts = [found.start() for found in HEAD.finditer(line)] if fresh else []
                fresh = line.endswith("\n")
                for index, (a, b) in enumerate(pairwise([0, *cuts, len(line)])):
                    if index:
                        yield first, "".join(parts)
                        first, parts, size = number, [], 0
                    parts.append(line[a : min(b, a + LONGEST - size)])
                    size += len(parts[-1])
        except (EOFError, gzip.BadGzipFile, zlib.error):
            remarks[
                "the compressed file is cut short or damaged; what came before that is read"
            ] = None
        yield first, "".join(parts)
        if foreign:
            remarks[f"{foreign:,} lines have bytes that are no UTF-8"] = None


def dictionary(text: str) -> dict[str, Any] | None:
    """The dictionary a text begins with, through JSON; None where it isn't whole or holds more than plain values."""

    def to_json(found: re.Match[str]) -> str:
        token = found[1] or found[0]
        return (
            json.dumps(token[1:-1].replace("\\'", "'"))
            if token[0] in "'\""
            else _JSON.get(token, token)
        )

    try:
        value, _ = json.JSONDecoder().raw_decode(_TOKEN.sub(to_json, text))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def words(text: str) -> dict[str, Any]:
    """What the older forms say: `[EPOCH]: 1/60, ...`, `[LOSS]: loss_cls 1.2, ...`, or the table below `IoUs:`."""
    if "ious:" in text[:200].lower():
        rows = dict(line.strip().rpartition(" ")[::2] for line in text.splitlines()[1:])
        miou = next((rows.pop(name) for name in list(rows) if name.lower() == "miou:"), None)
        return {"iou": rows, "miou": miou}
    found: dict[str, Any] = {}
    for name, value in _PAIR.findall(text):
        part, _, whole = value.partition("/")
        found[name.strip().lower().replace(" ", "_")] = part
        if whole:
            found[
                {"epoch": "max_epochs", "batch": "max_iters_in_cur_epoch"}.get(
                    name.lower(), "max_iters"
                )
            ] = whole
    return found | dict(_LOSS.findall(text.partition("LOSS]:")[2]))


def number_in(value: Any) -> float | None:
    """A number; None where it is none."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def count_in(value: Any) -> int:
    """A count; 0 where it is none."""
    number = number_in(value)
    return int(number) if number is not None and 1 <= number < 1e9 else 0


def epoch_length(path: Path) -> int:
    """Steps per epoch, where lines don't say it (May to October 2023), from the numbers of their batches; 0 where they do or leave it open.

    Lines come after a fixed number of steps, so the batches before and after the end of an epoch tell its length.
    """
    before, apart, found, most = (0, 0), Counter[int](), Counter[int](), 0
    for _, text in messages(path, {}):
        there = (
            dictionary(text[text.index("{") :])
            if "{" in text and "batch" in text and "max_iters" not in text
            else None
        )
        now = (count_in(there.get("epoch")), count_in(there.get("batch"))) if there else (0, 0)
        if not all(now):
            continue
        most = max(most, now[1])
        if now[0] == before[0]:
            apart[now[1] - before[1]] += 1
        elif now[0] == before[0] + 1 and apart:
            found[apart.most_common(1)[0][0] + before[1] - now[1]] += 1
        before = now
    likely = found.most_common(1)[0][0] if found else 0
    return likely if likely >= most else 0
