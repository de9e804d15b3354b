"""The app's command line; server.py, which is slow to import, serves the page."""

import argparse
import gc
import os
import sys
from pathlib import Path

from ccnet_lab.errors import LabError
from ccnet_lab.importing import importing


def options() -> argparse.ArgumentParser:
    """The options of `python app.py`."""
    parser = argparse.ArgumentParser(description="Explore criss-cross attention in the browser.")
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    add("--port", type=_port, default=7860)
    model = "demo, one of the twelve, a run folder, or a weights file (PATH as NAME)"
    add("--model", default="demo", help=model)
    runs = "folder of training runs, offered in the menu"
    add("--runs", type=Path, default=Path("runs"), help=runs)
    add("--device", default="cpu", help="cpu, cuda, ...")
    known = ("fp32", "bf16", "fast")
    precision = "of the backbone: fp32 (default), bf16, or fast: bf16 where the device has units"
    add("--precision", choices=known, default="fp32", help=precision)
    prefix = "where a reverse proxy shows the app, such as /lab; default: $GRADIO_ROOT_PATH, or /"
    add("--root-path", metavar="/PREFIX", help=prefix)
    named = "another name that browsers may reach the app by, such as a proxy's; may be repeated"
    add("--allow-host", metavar="NAME", action="append", default=[], help=named)
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is no port; expected 0 to 65535")
    return int(text)


def main() -> None:
    """Parse the command line and serve until stopped."""
    parser = options()
    args = parser.parse_args()
    if args.root_path and not args.root_path.startswith(("/", "http://", "https://")):
        parser.error(
            f"--root-path is {args.root_path!r}; expected a path that begins with / or a whole "
            "address, such as --root-path /lab"
        )
    with importing():
        from ccnet_lab.app.server import serve
        from ccnet_lab.app.visitor_files import own_folder
        from ccnet_lab.training.signals import handling
    gc.freeze()  # what is imported stays: no collection looks at it again

    try:
        # The folder is removed however the app ends; computing threads are not waited for.
        with handling(lambda number, _: sys.exit(128 + number)), own_folder() as folder:
            serve(args, folder)
    except (LabError, OSError) as error:
        parser.exit(2, f"{error}\n")
    except SystemExit as stop:
        print("stopped", file=sys.stderr, flush=True)
        os._exit(int(stop.code or 0))
