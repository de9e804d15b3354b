"""The exceptions of this library; a message says what came, what was expected and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class LabError(Exception):
    """Base of every error that ccnet_lab raises on purpose; the app shows its message as it is."""

    def __str__(self) -> str:  # KeyError, a base of one of these, would print the message's repr
        return str(self.args[0]) if self.args else ""


class ConfigError(LabError, ValueError, KeyError):
    """A name that no configuration has, an unknown field or a value out of range."""


class ImageError(LabError, ValueError):
    """A picture that cannot be read or is too large to decode, or a pixel outside it."""


class DataError(LabError, ValueError):
    """A data set that is missing, incomplete or damaged."""


class WeightsError(LabError, RuntimeError):
    """Weights that cannot be read, do not fit the model (nothing was loaded) or be exported."""


class DownloadError(LabError, OSError):
    """A file that could not be downloaded whole; nothing damaged lies under its name."""


class MissingFileError(LabError, FileNotFoundError):
    """A path that does not exist."""


class DeviceError(LabError, RuntimeError):
    """A device, memory or a package that this machine lacks; the remedy is named."""


class RunError(LabError, ValueError):
    """A run that cannot be read, written or trained on, or scores that cannot be compared."""


class RunBusyError(RunError):
    """Another process is writing to this run."""


_TURNING = (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_UNSEEN = dict.fromkeys(
    (*range(9), *range(14, 32), *range(127, 160), *_TURNING, *range(0xD800, 0xE000)), "\ufffd"
)


def printable(text: str) -> str:
    """A text with what no screen should be sent as \ufffd.

    That is control characters, those that turn the direction of what follows, and bytes of a file's
    name that are no text.
    """
    return text.translate(_UNSEEN)


def near(name: str, known: Iterable[str]) -> str:
    """The end of an error sentence: the three known names nearest to `name`, or all of them."""
    known = list(known)
    if found := get_close_matches(name, known, n=3, cutoff=0.5):
        return f"did you mean {' or '.join(map(repr, found))}?"
    return f"known are {', '.join(known)}"
