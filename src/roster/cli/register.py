"""`roster register`: keeps a passport registered while a command, written in any language, runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roster.cli.options import seconds
from roster.cli.session import Session

if TYPE_CHECKING:
    from roster.passport import NodePassport

EXAMPLES = (
    "roster register -f node_passport.yaml -- ./agent --port 8080",
    "roster register -f node_passport.yaml --ttl 10s -- node agent.js",
    "roster register -f node_passport.yaml              hold it until a signal comes",
)
_MAX_STDIN = 1024 * 1024


def register(
    session: Session,
    file: Annotated[
        str,
        typer.Option("-f", "--file", metavar="PASSPORT", help="The passport's file; - for standard input."),
    ],
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- CMD", help="What to run meanwhile.", show_default=False),
    ] = None,
    ttl: Annotated[
        str | None,
        typer.Option(
            "--ttl",
            metavar="DURATION",
            help="How long the node counts as alive after the last keep-alive; without it ROSTER_TTL, else 30s.",
            show_default=False,
        ),
    ] = None,
    takeover: Annotated[
        bool, typer.Option("--takeover", help="Replace a live holder of the name.", show_default=False)
    ] = False,
) -> int:
    """Keep a passport registered while a command runs.

    Without CMD it is held until a signal.

    CMD finds ROSTER_NODE_NAME, ROSTER_NODE_NAMESPACE, ROSTER_NODE_UID and ROSTER_NODE_QUEUE in its environment. It gets
    the signals TERM, INT, HUP, QUIT, USR1 and USR2; before TERM, INT and QUIT the node is shown as draining. When it has
    ended the node is deregistered, and its exit status is passed on (128 + n if signal n ended it; 127 if there is no such
    command, 126 if it cannot be run). It is not started again.
    """
    from roster.cli.keeper import Keeper

    return session.run(
        Keeper(session, _passport(file), command or []).keep(seconds(ttl, "--ttl"), takeover=takeover)
    )


def _passport(file: str) -> NodePassport:
    from roster.passport import NodePassport

    if file == "-":
        return NodePassport.parse(sys.stdin.buffer.read(_MAX_STDIN + 1), source="<stdin>")
    return NodePassport.load(Path(file))
