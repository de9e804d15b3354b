"""Run the notebooks and keep their outputs, as they are read on the web: small, without widgets.

`python scripts/run_notebooks.py` runs all of notebooks/; give paths for some. Widgets leave their
still, since a page on the web has no kernel to move them.
"""

import argparse
import re
import sys
import tempfile
from base64 import b64decode, b64encode
from pathlib import Path
from queue import Empty
from typing import Any

import ccnet_lab.ending  # first, so that Ctrl-C has no traceback while the rest is imported


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, help="default: all of notebooks/")
    return parser


if __name__ == "__main__":
    ccnet_lab.ending.guarded(options().parse_args)  # --help need not wait for what follows

import nbclient
import nbformat
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from traitlets import Type

from ccnet_lab.draw.pictures import reduced_png

FOLDER = Path(__file__).parents[1] / "notebooks"
TEMPORARY = re.compile(rf"{re.escape(tempfile.gettempdir())}/\w+/")  # of this run alone
WIDGET = "application/vnd.jupyter.widget-view+json"


class Shell(AsyncZMQSocketChannel):
    """Asks once a second.

    A reply that comes while a widget's message leaves on the same socket goes unnoticed.
    """

    async def get_msg(  # type: ignore[override]
        self, timeout: float | None = None
    ) -> dict[str, Any]:
        """The next message; raises `Empty` where none comes in time."""
        while True:
            step = 1 if timeout is None else min(1, timeout)
            try:
                return await super().get_msg(step)  # type: ignore[no-any-return]
            except Empty:
                if timeout is not None and (timeout := timeout - step) <= 0:
                    raise


class Client(AsyncKernelClient):
    """Talks to a kernel over such a channel."""

    shell_channel_class = Type(Shell)


class ThisInterpreter(AsyncKernelManager):
    """Starts "python3" with this interpreter: no other kernel specs are left."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]), client_factory=Client, **options
        )


def kept_outputs(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Outputs for the web: no progress bars, no widget where there is nothing else to see."""
    kept = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            continue
        if "text" in output:
            output.text = re.sub(TEMPORARY, "folder/", output.text)
        data = output.get("data", {})
        data.pop(WIDGET, None)
        if "image/png" in data:
            data["image/png"] = b64encode(reduced_png(b64decode(data["image/png"]))).decode()
        if output.output_type in ("display_data", "execute_result") and not data:
            continue
        kept.append(output)
    return kept


def run(path: Path) -> int:
    """Run a notebook where it lies and write its outputs into it; returns their bytes."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    client = nbclient.NotebookClient(
        notebook, kernel_manager_class=ThisInterpreter, timeout=1200, resources=resources
    )
    client.execute()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = kept_outputs(cell.outputs)
    nbformat.write(notebook, path)
    return path.stat().st_size


def main() -> None:
    """Parse the command line and run."""
    for path in options().parse_args().paths or sorted(FOLDER.glob("*.ipynb")):
        print(f"{path.name}: {run(path):,} bytes", file=sys.stderr)


if __name__ == "__main__":
    ccnet_lab.ending.ending(main)
