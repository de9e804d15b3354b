"""The exceptions this library raises on purpose; each message says what came, what was expected, what to do next."""

from collections.abc import Iterable
from difflib import get_close_matches


class LabError(Exception):
    """Base of every error ccnet_lab raises on purpose; the app shows its message as it is."""

    def __str__(self) -> str:  # KeyError, a base of some of these, would print the message's repr
        return str(self.args[0]) if self.args else ""


class ConfigError(LabError, ValueError):
    """A configuration that cannot be: an unknown name, a misspelt field, a value out of range."""


class UnknownConfigError(ConfigError, KeyError):
    """No configuration has this name."""


class UnknownFieldError(ConfigError, TypeError):
    """A configuration has no such field."""


class ImageError(LabError, ValueError):
    """Something that is not a readable picture, is too large to decode, or a pixel that lies outside it."""


class DataError(LabError, ValueError):
    """A data set that is missing, incomplete or damaged; the file and the remedy are named."""


class WeightsError(LabError, RuntimeError):
    """A weights file that cannot be read, or whose entries do not fit the model; nothing was loaded."""


class DownloadError(LabError, OSError):
    """A file that could not be downloaded whole; says where to put it by hand. Nothing damaged lies under its name."""


class NotThereError(DownloadError):
    """The host has no such file."""


class MissingFileError(LabError, FileNotFoundError):
    """A path that does not exist."""


class DeviceError(LabError, RuntimeError):
    """A device that this machine or this build of torch does not have."""


class ExportError(LabError, ValueError):
    """A network that cannot be written as asked, or a file that does not give what the network gives."""


class TrainingError(LabError, ArithmeticError):
    """A loss or gradients that are not finite; the step, the batch's files and the last good checkpoint are named."""


class MemoryShortError(LabError, MemoryError):
    """Not enough memory; the options to lower are named."""


class RunError(LabError, ValueError):
    """A run folder that lacks a file it should have, or whose files cannot be read."""


class ProtocolError(LabError, ValueError):
    """Scores measured in different ways that would be compared, or a way of measuring that cannot be."""


class RunBusyError(RunError):
    """Another process is writing to this run."""


class MissingPackageError(LabError, ImportError):
    """An optional package isn't installed; the command that installs it is named."""


def near(name: str, known: Iterable[str], most: int = 3) -> str:
    """The known names nearest to `name`, as the end of a sentence; all of them where none is near."""
    known = list(known)
    found = get_close_matches(name, known, n=most, cutoff=0.5)
    return (
        f"did you mean {' or '.join(map(repr, found))}?"
        if found
        else f"known are {', '.join(known)}"
    )
