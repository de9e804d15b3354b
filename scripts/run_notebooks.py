"""Run the notebooks and keep their outputs, as they are read on the web: small, without widgets.

`python scripts/run_notebooks.py` runs all of notebooks/; give paths for some. Widgets leave their
still, since a page on the web has no kernel to move them.
"""

import argparse
import sys
from pathlib import Path

import ccnet_lab.ending  # first, so that Ctrl-C has no traceback while the rest is imported

import nbclient
import nbformat

from ccnet_lab.draw.pictures import reduced_png

FOLDER = Path(__file__).parents[1] / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"


def kept_outputs(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Outputs for the web: no progress bars, no widget where there is nothing else to see."""
    kept = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            continue
        data = output.get("data", {})
        data.pop(WIDGET, None)
        if "image/png" in data:
            data["image/png"] = reduced_png(data["image/png"])
        if output.output_type in ("display_data", "execute_result") and not data:
            continue
        kept.append(output)
    return kept


def run(path: Path) -> int:
    """Run a notebook where it lies and write its outputs into it; returns their bytes."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(notebook, timeout=1200, resources=resources).execute()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = kept_outputs(cell.outputs)
    nbformat.write(notebook, path)
    return path.stat().st_size


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, help="default: all of notebooks/")
    for path in parser.parse_args().paths or sorted(FOLDER.glob("*.ipynb")):
        print(f"{path.name}: {run(path):,} bytes", file=sys.stderr)


if __name__ == "__main__":
    ccnet_lab.ending.ending(main)
