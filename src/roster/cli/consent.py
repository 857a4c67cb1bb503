"""The question before what cannot be undone, on a terminal and nowhere else."""

from __future__ import annotations

import sys

import typer

from roster._text import safe
from roster.errors import RosterError


def consent(question: str, unasked: RosterError) -> None:
    """Ask, and return if the answer is yes.

    Args:
        question: for people; made safe here.
        unasked: the error where there is no terminal to ask on; it says what to add.

    Raises:
        RosterError: the answer is no, or `unasked`.
        typer.Abort: Ctrl-C, or the end of the input.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise unasked
    if not typer.confirm(safe(question), err=True):
        raise RosterError("not confirmed: nothing was changed")
