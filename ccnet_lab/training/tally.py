"""Tally: what an evaluation has counted so far, which can be stored and gone on with. What is made of it is evaluation.py's."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccnet_lab.errors import RunError
from ccnet_lab.files import write_whole
from ccnet_lab.scoring.metrics import Confusions
from ccnet_lab.scoring.protocol import Protocol


@dataclass
class Tally:
    """Counts over the first images of a split.

    Attributes:
        mark: of what was counted: protocol and model; only the same is gone on with.
        num_classes: K.
        names: of the images counted.
        parts: each image's confusion matrix, as (cells, counts) of its entries other than 0.
        edges: (2, K) intersection and union of the classes' boundaries, pixels.
        seconds: spent on it.
    """

    mark: str
    num_classes: int
    names: list[str] = field(default_factory=list)
    parts: list[tuple[NDArray[Any], NDArray[Any]]] = field(default_factory=list)
    edges: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, 0), np.int64))
    seconds: float = 0.0

    @classmethod
    def begin(cls, path: Path | None, protocol: Protocol, key: str, num_classes: int) -> "Tally":
        """What `save` left at `path` for this protocol and model, or an empty one."""
        mark = json.dumps([protocol.to_dict(), key], sort_keys=True)
        empty = cls(mark, num_classes, edges=np.zeros((2, num_classes), np.int64))
        if path is None or not path.is_file():
            return empty
        try:
            with np.load(path) as file:
                if str(file["mark"]) != mark:
                    return empty
                ends = np.cumsum(file["lengths"])[:-1]
                parts = list(zip(np.split(file["cells"], ends), np.split(file["counts"], ends), strict=True))
                return cls(mark, num_classes, list(map(str, file["names"])), parts, file["edges"], float(file["seconds"]))
        except Exception:  # damaged archives raise many kinds; then it is counted anew
            return empty

    def add(self, name: str, confusion: NDArray[np.int64], edges: NDArray[np.int64] | None) -> None:
        """Count one image: its (K, K) confusion matrix and (2, K) boundaries."""
        cells = np.flatnonzero(confusion)
        self.names.append(name)
        self.parts.append((cells.astype(np.uint16), confusion.ravel()[cells].astype(np.uint32)))
        if edges is not None:
            self.edges += edges

    def confusions(self) -> Confusions:
        """The confusion matrices of the images so far."""
        return Confusions.collect(self.names, self.num_classes, self.parts)

    def save(self, path: Path) -> None:
        """Store it, whole or not at all."""
        arrays: dict[str, Any] = {
            "mark": np.array(self.mark),
            "names": np.array(self.names, np.str_),
            "lengths": np.array([len(cells) for cells, _ in self.parts]),
            "cells": np.concatenate([cells for cells, _ in self.parts]),
            "counts": np.concatenate([counts for _, counts in self.parts]),
            "edges": self.edges,
            "seconds": np.array(self.seconds),
        }

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:  # given a path, NumPy would change its ending
                np.savez_compressed(file, **arrays)

        write_whole(path, write, RunError)
