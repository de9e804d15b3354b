"""Run: one training run's folder on disk, the only module that knows the file names in it. What is written there is decided elsewhere."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccnet_lab.configs import Config
from ccnet_lab.errors import MissingFileError, RunError


@dataclass(frozen=True)
class Run:
    """A run folder: `config.json`, `metrics.jsonl`, `scores.json`, `model.safetensors`."""

    folder: Path

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """An existing run folder; raises `MissingFileError` where there is none, `RunError` where it holds no run."""
        folder = Path(folder)
        if not folder.is_dir():
            raise MissingFileError(f"there is no run folder {folder}")
        if not (folder / "config.json").is_file():
            raise RunError(f"{folder} is no run folder: it has no config.json")
        return cls(folder)

    @classmethod
    def create(cls, folder: str | Path, config: Config) -> "Run":
        """A new run folder that holds `config`; raises `RunError` where there is one already."""
        run = cls(Path(folder))
        if (run.folder / "config.json").exists():
            raise RunError(f"{folder} holds a run already; choose another folder or resume it")
        run.folder.mkdir(parents=True, exist_ok=True)
        run._write("config.json", config.to_dict())
        return run

    @property
    def config(self) -> Config:
        """What was trained."""
        return Config.from_dict(self._read("config.json"))

    @property
    def weights(self) -> Path:
        """The trained weights; the file may not be there yet."""
        return self.folder / "model.safetensors"

    @property
    def scores(self) -> dict[str, Any] | None:
        """miou, pixel_accuracy, per_class_iou by class name, protocol; None before an evaluation."""
        return self._read("scores.json") if (self.folder / "scores.json").exists() else None

    def write_scores(self, scores: dict[str, Any]) -> None:
        """Store an evaluation's scores."""
        self._write("scores.json", scores)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.folder / name} cannot be read: {error}") from None
        if not isinstance(content, dict):
            raise RunError(f"{self.folder / name} holds a {type(content).__name__}; expected an object")
        return content

    def _write(self, name: str, content: dict[str, Any]) -> None:
        (self.folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
