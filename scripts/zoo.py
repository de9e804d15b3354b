"""The published files on this machine: list, download, remove; see ccnet_lab/store.py."""

import argparse
import fnmatch

from ccnet_lab.ending import ending

from ccnet_lab import store
from ccnet_lab.downloads import progress_bar
from ccnet_lab.errors import LabError, MissingFileError, near


def main() -> int:
    """One of three commands; a known error is one sentence and exit code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"files are kept in {store.home()}; $CCNET_LAB_HOME moves that"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the published files, and which of them are on this machine")
    get = commands.add_parser(
        "get",
        help="download checkpoints, logs (NAME.log) or start weights (resnet50_v1c); "
        "globs allowed, quoted",
    )
    get.add_argument("names", nargs="+", metavar="NAME")
    get.add_argument(
        "--mirror",
        default="",
        help=f"an address with the same files; by default ${store.MIRROR} or the published one",
    )
    remove = commands.add_parser(
        "remove", help="delete files from this machine; globs allowed, quoted ('*' for all)"
    )
    remove.add_argument("names", nargs="+", metavar="NAME")
    args = parser.parse_args()
    try:
        if args.command == "list":
            print(table())
        elif args.command == "get":
            for name in matching(args.names, list(store.PUBLISHED)):
                print(store.obtain(name, progress_bar(name), args.mirror))
        else:
            files = [(file.name or file.path.name, file) for file in store.kept()]
            chosen = matching(args.names, [name for name, _ in files])
            for file in (file for name, file in files if name in chosen):
                store.remove(file)
                print(f"removed {file.path} ({file.bytes / 1e6:.1f} MB)")
    except (LabError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    return 0


def matching(patterns: list[str], known: list[str]) -> list[str]:
    """The known names that match, in order; raises `MissingFileError` where a pattern has none."""
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            remedy = near(pattern, known) if known else "there is none"
            raise MissingFileError(f"no file is called {pattern!r}; {remedy}")
    return [name for name in known if any(fnmatch.fnmatchcase(name, p) for p in patterns)]


def table() -> str:
    """Every published file, then what else is in the folder."""
    files = store.kept()
    others = {file.path: file for file in files}
    lines = [f"{'name':<36} {'MB':>8}  sha256"]
    for published in store.PUBLISHED.values():
        path = published.path
        whole, part = others.pop(path, None), others.pop(path.with_name(path.name + ".part"), None)
        if whole is not None:
            size, state = f"{whole.bytes / 1e6:.1f}", whole.sha256[:16] or "not recorded yet"
        elif part is not None:
            size, state = "-", f"the first {part.bytes / 1e6:.1f} MB are here"
        else:
            size, state = "-", "not on this machine"
        lines.append(f"{published.name:<36} {size:>8}  {state}")
    for file in others.values():
        lines.append(f"{file.path.name:<36} {file.bytes / 1e6:8.1f}  {file.sha256[:16]}")
    total = sum(file.bytes for file in files)
    return "\n".join([*lines, f"{total / 1e6:.1f} MB in {store.home()}"])


if __name__ == "__main__":
    ending(main)
