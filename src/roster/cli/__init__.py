"""The `roster` command: a thin skin over the API."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from roster._version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        argv: the arguments without the program's name; None takes `sys.argv`.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if args in (["--version"], ["-V"]):
        # Nothing else is imported: this is what monitoring and package tests ask, and it takes a few milliseconds.
        print(f"roster {__version__}")
        return 0
    _open_streams()
    try:
        from roster.cli.app import run
    except KeyboardInterrupt:  # loading takes long enough for a Ctrl-C
        return 128 + signal.SIGINT
    return run(args)


def _open_streams() -> None:
    """Have a stream that was closed for us lead nowhere; else a socket would get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
