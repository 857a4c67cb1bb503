"""`roster demo`: a team at work in a directory of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from roster.cli.session import Session

EXAMPLES = (
    "roster demo",
    "roster demo --keep       leave the registry and the agents' logs behind, to look at",
)


def demo(
    session: Session,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Leave the directory behind, and say where it is.", show_default=False),
    ] = False,
) -> int:
    """Watch a team at work, with one agent killed.

    Three writers and an editor answer sixty commands; one writer is killed, one leaves, one joins.
    Exits with 0 only if every command was answered exactly once.
    """
    from rich.console import Console

    from roster.cli.demo.play import Demo

    directory = Path(tempfile.mkdtemp(prefix="roster-demo-"))
    # The demo's agents are processes of their own: what was given as an option reaches them through the environment.
    os.environ.update(session.environment())
    console = Console(no_color=True if not session.out.colour else None, highlight=False)
    try:
        return session.run(Demo(console, directory).play())
    finally:
        if keep:
            session.out.note(f"everything is kept in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
