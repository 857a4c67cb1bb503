"""How a failure is told: one line that says what to do, and an exit status."""

from __future__ import annotations

import os
import sys
import traceback

from roster._text import safe
from roster.cli.output import Output
from roster.errors import DocumentError, RosterError

USAGE = 2
DEFECT = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT, as a shell says it
BROKEN_PIPE = 141  # 128 + SIGPIPE

EXIT_CODES = (
    (0, "done"),
    (1, "it failed; the line on stderr says why"),
    (2, "wrong usage"),
    (3, "the registry's store, or the database of runs, is out of reach, damaged, or refused"),
    (4, "a live process holds this name"),
    (5, "no such node, run, or dead letter"),
    (6, "a command did not bring back a result, or the bus cannot be used"),
    (7, "no node can do it"),
    (8, "all nodes that can do it are busy"),
    (9, "the params contradict the capability's input schema"),
    (10, "the deadline passed"),
    (11, "the run is not in the state for that"),
    (12, "the run was cancelled"),
    (70, "a defect in Roster"),
    (130, "interrupted (Ctrl-C)"),
    (141, "whoever read the output went away"),
)


def report(error: BaseException, out: Output, *, debug: bool) -> int:
    """Tell of a failure; return the exit status."""
    if debug:
        for line in "".join(traceback.format_exception(error)).rstrip("\n").split("\n"):
            out.note(line)
    if isinstance(error, DocumentError):
        for line in error.lines():
            out.note(line)
        count = len(error.faults)
        out.error(
            f"{error.source} has {count} fault{'s' if count != 1 else ''}; correct what the lines above name"
        )
        return error.exit_code
    if isinstance(error, RosterError):
        out.error(str(error))
        return error.exit_code
    if isinstance(error, OSError) and error.strerror:
        out.error(f"{error.strerror}{f': {error.filename}' if error.filename else ''}")
        return 1
    out.error(
        f"unexpected {type(error).__name__}: {error}; this is a defect in Roster: report what --debug shows"
    )
    return DEFECT


def report_usage(message: str, command: str, out: Output) -> int:
    """Tell of wrong usage; return the exit status."""
    text = " ".join(message.split()).rstrip(".")
    out.error(f"{text}; see '{safe(command)} --help'")
    return USAGE


def silence_stdout() -> None:
    """Have nothing more written to a pipe that nobody reads: Python flushes stdout once more at exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, sys.stdout.fileno())
    finally:
        os.close(devnull)
