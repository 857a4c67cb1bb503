"""`roster run cancel`, `approve` and the like, and `roster pause` and `resume`: what people say to runs.

They need the database of runs alone: whichever orchestrator has the run hears of it within a second.
"""

from __future__ import annotations

import getpass
import json
from typing import Annotated, Any

import typer

from roster.cli.complete import complete_paused, complete_runs, complete_waiting
from roster.cli.names import run_id, run_or_card
from roster.cli.options import seconds
from roster.cli.params import document_params, pair_params
from roster.cli.session import Session

CANCEL_EXAMPLES = ("roster run cancel article-7", "roster run cancel article-7 --reason 'the topic is taken'")
APPROVE_EXAMPLES = (
    "roster run approve article-7",
    "roster run approve article-7 --step review --comment 'well done' --data '{\"grade\": 1}'",
)
REJECT_EXAMPLES = ("roster run reject article-7 --comment 'too long'",)
SKIP_EXAMPLES = ("roster run skip article-7 --step publish",)
SIGNAL_EXAMPLES = (
    "roster run signal article-7 printed",
    'roster run signal article-7 printed -d pages=12 -d \'by:={"name":"Ada"}\'',
    "roster run signal article-7 printed -d '[1, 2]'",
)
PAUSE_EXAMPLES = ("roster run pause article-7",)
RESUME_EXAMPLES = ("roster run resume article-7",)
PRUNE_EXAMPLES = ("roster run prune --older-than 30d",)
PAUSE_ALL_EXAMPLES = ("roster pause card/article", "roster pause run/article-7")
RESUME_ALL_EXAMPLES = ("roster resume card/article", "roster resume run/article-7")

Id = Annotated[str, typer.Argument(metavar="ID", help="The run; also run/ID.", autocompletion=complete_runs)]
WaitingId = Annotated[
    str, typer.Argument(metavar="ID", help="The run; also run/ID.", autocompletion=complete_waiting)
]
What = Annotated[
    str, typer.Argument(metavar="card/NAME|run/ID", help="Which.", autocompletion=complete_paused)
]
Step = Annotated[
    str | None,
    typer.Option(
        "--step",
        metavar="STEP",
        help="Id or key of the step, where more than one waits for a person.",
        show_default=False,
    ),
]
Comment = Annotated[str, typer.Option("--comment", metavar="TEXT", help="Why.", show_default=False)]


def cancel(
    session: Session,
    run: Id,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why.", show_default=False)] = "",
) -> None:
    """End a run. What nodes do for it is stopped within a second."""
    with session.book() as book:
        record = book.cancel(run_id(run), reason or f"cancelled by {_me()}")
    session.out.line(f"run/{record.id} cancelled")


def approve(
    session: Session,
    run: WaitingId,
    step: Step = None,
    comment: Comment = "",
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="JSON|@FILE|-",
            help="An object that the card gets with the answer.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say yes to a run that waits for a person.

    At a human_checkpoint it goes on; after a failure (on_failure: escalate) the step is tried again. Who you are goes with
    the answer.
    """
    more = document_params(data, "--data") if data is not None else None
    with session.book() as book:
        book.answer(run_id(run), "approve", step, by=_me(), comment=comment, data=more)
    session.out.line(f"run/{run_id(run)} approved")


def reject(session: Session, run: WaitingId, step: Step = None, comment: Comment = "") -> None:
    """Say no to a run that waits for a person: it fails."""
    with session.book() as book:
        book.answer(run_id(run), "reject", step, by=_me(), comment=comment)
    session.out.line(f"run/{run_id(run)} rejected")


def skip(session: Session, run: WaitingId, step: Step = None, comment: Comment = "") -> None:
    """Have a run go on behind a failed step.

    The run waits after a failure (on_failure: escalate); what the step would have brought is not set.
    """
    with session.book() as book:
        book.go_on(run_id(run), step, by=_me(), comment=comment)
    session.out.line(f"run/{run_id(run)} goes on")


def signal(
    session: Session,
    run: WaitingId,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="Its name.", show_default=False)],
    data: Annotated[
        list[str] | None,
        typer.Option(
            "-d",
            "--data",
            metavar="JSON|NAME=TEXT|NAME:=JSON",
            help="What comes with it: one JSON value, or fields of an object, one each.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Send a run an event.

    One that it waits for, or will wait for: it is kept until a step takes it.
    """
    with session.book() as book:
        book.signal(run_id(run), event, _data(data or []))
    session.out.line(f"run/{run_id(run)} signalled {event}")


def pause(session: Session, run: Id) -> None:
    """Have a run stand still before its next step. What nodes do for it now is finished."""
    _pause(session, run_id(run))


def resume(session: Session, run: Id) -> None:
    """Let a run go on that was paused or given up.

    One that was given up (dead) is taken up at the step where it was.
    """
    _resume(session, run_id(run))


def prune(
    session: Session,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="DURATION", help="Runs that ended longer ago than that.")
    ],
) -> None:
    """Remove runs that ended long ago.

    With everything that the database has of them.
    """
    age = seconds(older_than, "--older-than") or 0.0
    with session.book() as book:
        count = book.prune(age)
    session.out.line(f"{count} run{'s' if count != 1 else ''} removed")


def pause_any(session: Session, what: What) -> None:
    """Have runs of a card, or one run, stand still.

    They stop before their next step; what nodes do for them now is finished. Runs of the card that begin later stand still
    too, until 'roster resume card/NAME'.
    """
    kind, name = run_or_card(what)
    if kind == "run":
        _pause(session, name)
        return
    with session.book() as book:
        count = book.pause_card(name)
    session.out.line(f"card/{name} paused ({count} run{'s' if count != 1 else ''} of it now)")


def resume_any(session: Session, what: What) -> None:
    """Let the runs of a card, or one run, go on."""
    kind, name = run_or_card(what)
    if kind == "run":
        _resume(session, name)
        return
    with session.book() as book:
        stood = book.resume_card(name)
    session.out.line(f"card/{name} {'goes on' if stood else 'was not paused'}")


def _pause(session: Session, run: str) -> None:
    with session.book() as book:
        book.pause(run, True)
    session.out.line(f"run/{run} paused")


def _resume(session: Session, run: str) -> None:
    with session.book() as book:
        if book.state(run) == "dead":
            book.revive(run)
        else:
            book.pause(run, False)
        card = book.get(run).card
        still = card in book.paused_cards()
    session.out.line(f"run/{run} goes on")
    if still:
        session.out.warning(f"all runs of {card} stand still: 'roster resume card/{card}' lets them go on")


def _data(given: list[str]) -> Any:
    if len(given) == 1:
        try:
            return json.loads(given[0])
        except ValueError:
            pass  # then it is a pair, or the error below says what it is
    return pair_params(given, [], "-d") if given else None


def _me() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""  # a user id without a name, as in a container
