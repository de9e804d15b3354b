"""The exceptions of this library; a message says what came, what was expected and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class LabError(Exception):
    """Base of every error that ccnet_lab raises on purpose; the app shows its message as it is."""

    def __str__(self) -> str:  # KeyError, a base of one of these, would print the message's repr
        return str(self.args[0]) if self.args else ""


class ConfigError(LabError, ValueError):
    """An impossible configuration: an unknown field, a value out of range."""


class UnknownConfigError(ConfigError, KeyError):
    """No configuration has this name."""


class ImageError(LabError, ValueError):
    """A picture that cannot be read or is too large to decode, or a pixel outside it."""


class DataError(LabError, ValueError):
    """A data set that is missing, incomplete or damaged."""


class WeightsError(LabError, RuntimeError):
    """A weights file that cannot be read or does not fit the model; nothing was loaded."""


class DownloadError(LabError, OSError):
    """A file that could not be downloaded whole; nothing damaged lies under its name."""


class MissingFileError(LabError, FileNotFoundError):
    """A path that does not exist."""


class DeviceError(LabError, RuntimeError):
    """A device that this machine or this build of torch does not have."""


class ExportError(LabError, ValueError):
    """A network that cannot be exported as asked, or an export that computes something else."""


class TrainingError(LabError, ArithmeticError):
    """A loss or gradients that are not finite."""


class MemoryShortError(LabError, MemoryError):
    """Not enough memory; the options to lower are named."""


class RunError(LabError, ValueError):
    """A run folder that lacks a file, or whose files cannot be read or written."""


class RunBusyError(RunError):
    """Another process is writing to this run."""


class ProtocolError(LabError, ValueError):
    """Scores measured in different ways, or an impossible way of measuring."""


class MissingPackageError(LabError, ImportError):
    """An optional package is not installed; the command that installs it is named."""


def near(name: str, known: Iterable[str]) -> str:
    """The end of an error sentence: the three known names nearest to `name`, or all of them."""
    known = list(known)
    if found := get_close_matches(name, known, n=3, cutoff=0.5):
        return f"did you mean {' or '.join(map(repr, found))}?"
    return f"known are {', '.join(known)}"
