"""The checkpoint doctor's command line: `python -m ccnet_lab.model.weights FILE`; what it says and does is in model/diagnosis.py."""

import argparse
import sys
from pathlib import Path

from ccnet_lab.configs import get_config
from ccnet_lab.errors import ConfigError, LabError
from ccnet_lab.model.diagnosis import convert, diagnose


def main() -> int:
    """Print the diagnosis; 0 where a configuration fits, 1 where none does or something is refused, 2 where the file cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m ccnet_lab.model.weights", description=(diagnose.__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help="a checkpoint: ours, SSSegmentation's, mmsegmentation's, the authors', a ResNet's")
    parser.add_argument("--config", help="compare with this configuration; needed where the file doesn't say its output stride")
    parser.add_argument("--ema", action="store_true", help="the averaged weights of a file that has both")
    parser.add_argument("--out", type=Path, metavar="FILE.safetensors", help="convert it into one of our files, without loss")
    parser.add_argument("--part", default="", choices=("attention",), help="with --out: write this module alone, from any CCNet")
    parser.add_argument("--force", action="store_true", help="with --out: replace the file that is there")
    args = parser.parse_args()
    if args.out is None and (args.part or args.force):
        parser.error("--part and --force go with --out FILE.safetensors")
    try:
        config = get_config(args.config) if args.config else None
    except ConfigError as error:
        parser.error(str(error))
    try:
        found = diagnose(args.file, config, args.ema)
    except LabError as error:
        print(f"{args.file}: {error}", file=sys.stderr)
        return 2
    print(found.text)
    if args.out is not None:
        try:
            convert(args.file, args.out, config, part=args.part, force=args.force, ema=args.ema)
        except LabError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{args.out} written{', the attention alone' if args.part else ''}")
    return 0 if found.fits else 1


if __name__ == "__main__":
    sys.exit(main())
