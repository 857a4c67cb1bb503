"""`roster register`: keeps a passport registered while a command, written in any language, runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roster.cli.options import seconds
from roster.cli.session import Session

if TYPE_CHECKING:
    from roster.cli.probes import Checks
    from roster.passport import NodePassport

EXAMPLES = (
    "roster register -f node_passport.yaml -- ./agent --port 8080",
    "roster register -f node_passport.yaml --ttl 10s -- node agent.js",
    "roster register -f node_passport.yaml              hold it until a signal comes",
    "roster register -f node_passport.yaml --check http://127.0.0.1:8080/healthz   for a program beside it",
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
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="Another name than the passport's: for replicas of one passport.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(
            "--check",
            metavar="URL",
            help="Take work only while this is well: tcp://HOST:PORT, http://HOST:PORT/PATH, https://..., "
            "file:///PATH. May be given several times.",
            show_default=False,
        ),
    ] = None,
    check_every: Annotated[
        str, typer.Option("--check-every", metavar="DURATION", help="How often it is looked at.")
    ] = "10s",
    check_timeout: Annotated[
        str, typer.Option("--check-timeout", metavar="DURATION", help="How long one look may take.")
    ] = "1s",
    check_failures: Annotated[
        int,
        typer.Option(
            "--check-failures",
            metavar="N",
            min=1,
            max=1000,
            help="How many looks in a row have to fail.",
        ),
    ] = 3,
) -> int:
    """Keep a passport registered while a command runs.

    Without CMD it is held until a signal.

    CMD finds ROSTER_NODE_NAME, ROSTER_NODE_NAMESPACE, ROSTER_NODE_UID and ROSTER_NODE_QUEUE in its environment. It gets
    the signals TERM, INT, HUP, QUIT, USR1 and USR2; before TERM, INT and QUIT the node is shown as draining. When it has
    ended the node is deregistered, and its exit status is passed on (128 + n if signal n ended it; 127 if there is no such
    command, 126 if it cannot be run). It is not started again.

    With --check the node is shown as starting until all checks are good, and again after N looks in a row have failed,
    with the condition Healthy=False: no work is sent to it meanwhile.
    """
    from roster.cli.keeper import Keeper

    checks = _checks(check or [], check_every, check_timeout, check_failures)
    keeper = Keeper(session, _named(_passport(file), name), command or [], checks)
    return session.run(keeper.keep(seconds(ttl, "--ttl"), takeover=takeover))


def _checks(urls: list[str], every: str, timeout: str, failures: int) -> Checks | None:
    from roster.cli.probes import Checks, Probe

    pause, limit = seconds(every, "--check-every"), seconds(timeout, "--check-timeout")
    for option, value in (("--check-every", pause), ("--check-timeout", limit)):
        if value is None or not 0.05 <= value <= 3600:
            raise typer.BadParameter(f"{option} is 50ms to 1h")
    if not urls:
        return None
    assert pause is not None and limit is not None  # noqa: PT018, S101 - looked at above
    return Checks(tuple(Probe.parse(url) for url in urls), pause, limit, failures)


def _named(passport: NodePassport, name: str | None) -> NodePassport:
    if name is None or name == passport.name:
        return passport
    queue = passport.to_dict().get("spec", {}).get("communication", {}).get("mindbus_queue")
    if queue is not None:
        raise typer.BadParameter(
            f"the passport names its queue ({queue}), and two nodes must not share one: leave "
            "spec.communication.mindbus_queue out of a passport that is given other names"
        )
    return passport.with_metadata(name=name)


def _passport(file: str) -> NodePassport:
    from roster.passport import NodePassport

    if file == "-":
        return NodePassport.parse(sys.stdin.buffer.read(_MAX_STDIN + 1), source="<stdin>")
    return NodePassport.load(Path(file))
