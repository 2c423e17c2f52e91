"""``python -m QEfficient.simulator install DIR``: a simulated SDK, for a CI without cards."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from QEfficient.errors import QEffError
from QEfficient.simulator.sdk import install
from QEfficient.simulator.versions import DEFAULT_VERSION


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m QEfficient.simulator", description="Cloud AI 100 without the card")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("install", help="write a folder like the SDK's, with a simulated card behind it")
    command.add_argument("folder", type=Path, help="the folder to make")
    command.add_argument("--sdk-version", default=DEFAULT_VERSION, help="of the SDK (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        print(install(arguments.folder, arguments.sdk_version))
    except QEffError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
