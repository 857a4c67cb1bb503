"""`roster run CARD`: run a process card, show how it gets on, and print its result."""

from __future__ import annotations

import asyncio
import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster.cli.inputs import STDIN, from_stdin
from roster.cli.options import seconds
from roster.cli.params import document_params, pair_params
from roster.cli.run_progress import progress
from roster.cli.run_words import status_of, why
from roster.cli.session import Session
from roster.errors import CallTimeoutError

if TYPE_CHECKING:
    from roster.cards import ProcessCard
    from roster.cli.output import Output
    from roster.orchestrator.runs.cardfiles import CardLike
    from roster.orchestrator.runs.record import RunRecord
    from roster.orchestrator.runs.runs import Runs

EXAMPLES = (
    "roster run card.yaml -i topic=bees -i words:=800        := takes JSON",
    "roster run card.yaml --inputs @inputs.json -o json      the whole record of the run",
    "roster run card.yaml -i topic=bees --dry-run            who would do each step",
    "roster run card.yaml -i topic=bees --mock mocks.yaml    with answers from a file, without agents",
    "roster run card.yaml --id article-7 --detach            leave it to 'roster orchestrate'",
    "roster run approve article-7 --comment 'well done'",
    "roster run cancel article-7",
)
_EVERY = 0.2


class Form(StrEnum):
    """How the end of a run is printed."""

    JSON = "json"
    YAML = "yaml"
    RAW = "raw"


class NoNodes(StrEnum):
    """What a step does that nobody can do."""

    WAIT = "wait"
    FAIL = "fail"


def root(session: Session) -> None:
    """Run a process card, or say something to a run."""


def run(
    session: Session,
    card: Annotated[
        str, typer.Argument(metavar="CARD", help="The card's file; - for standard input.", show_default=False)
    ],
    input_: Annotated[
        list[str] | None,
        typer.Option(
            "-i",
            "--input",
            metavar="NAME=TEXT|NAME:=JSON",
            help="One input. Can be repeated.",
            show_default=False,
        ),
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option(
            "--inputs",
            metavar="JSON|@FILE|-",
            help="All inputs, a JSON object; -i goes on top.",
            show_default=False,
        ),
    ] = None,
    run_id: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="ID",
            help="Its name. The same again with the same card and inputs is the same run; without it one is made up.",
            show_default=False,
        ),
    ] = None,
    no_nodes: Annotated[
        NoNodes,
        typer.Option("--no-nodes", help="A step that nobody can do waits, up to its timeout, or fails."),
    ] = NoNodes.WAIT,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach",
            help="Leave it to 'roster orchestrate', and print its id at once.",
            show_default=False,
        ),
    ] = False,
    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout",
            metavar="DURATION",
            help="Look on no longer than that; the run goes on. Without it as long as it takes.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only show the steps, and the node that would do each.", show_default=False
        ),
    ] = False,
    mock: Annotated[
        str | None,
        typer.Option(
            "--mock",
            metavar="FILE",
            help="Answer every action from this file: no node, registry or bus is asked, nothing is kept.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Form | None,
        typer.Option(
            "-o",
            "--output",
            help="json and yaml print the record of the run; raw its result, text as it is and JSON on one line.",
            show_default="its result, as text or JSON",
        ),
    ] = None,
) -> int:
    """Run a process card, and print what it brings.

    The card is checked first, as by 'roster card validate'. On a terminal standard error shows how it gets on, elsewhere -v
    does. The run is kept in a database (ROSTER_RUNS): if this process dies, the next orchestrator goes on with it.

    With one of the commands below something is said to a run, as 'roster run cancel ID'. A card in a file of such a name is
    given as ./cancel.
    """
    chosen = [
        name for name, given in (("--detach", detach), ("--dry-run", dry_run), ("--mock", mock)) if given
    ]
    if len(chosen) > 1:
        raise typer.BadParameter(f"{' and '.join(chosen)} contradict each other: give one of them")
    if card == STDIN and inputs == STDIN:
        raise typer.BadParameter("standard input is either the card or the inputs")
    from roster.cards import CardReport

    given = {**document_params(inputs, "--inputs"), **pair_params(input_ or [], [], "-i")}
    read, like = read_given(card)
    for line in CardReport(card, read, warnings=read.warnings).warning_lines():
        session.out.warning(line)
    if dry_run:
        from roster.cli.plan import show_plan

        return show_plan(session, read, given, output)
    if mock is not None:
        return _mocked(session, like, given, mock, run_id, output)
    options = {"run_id": run_id, "no_nodes": no_nodes.value}
    deadline = seconds(timeout, "--timeout")
    return session.run(_run(session, like, given, options, output, detach=detach, deadline=deadline))


def read_given(card: str) -> tuple[ProcessCard, CardLike]:
    """Read a card, and say every fault of it before anything is opened. Return it, and what runs are started with.

    Raises:
        DocumentError: it is wrong; lists every fault.
    """
    from roster.cards.limits import DEFAULTS, VARIABLE
    from roster.orchestrator.runs.cardfiles import read_card

    if card != STDIN:
        return read_card(card)[0], card
    from roster.cards import examine
    from roster.errors import DocumentError
    from roster.routing import STRATEGIES

    limits = DEFAULTS.changed(os.environ.get(VARIABLE, ""))
    report = examine(from_stdin(limits.file), source="<stdin>", limits=limits, strategies=tuple(STRATEGIES))
    if report.card is None:
        raise DocumentError("<stdin>", report.faults)
    return read_card(report.card)[0], report.card


def _mocked(
    session: Session, card: CardLike, inputs: dict[str, Any], file: str, run_id: str | None, form: Form | None
) -> int:
    from roster.orchestrator.runs.mockfile import Mocks
    from roster.orchestrator.runs.mocks import run_mocked

    record = session.run(run_mocked(card, inputs, Mocks.load(file), run_id=run_id))
    if session.verbose:
        progress(session.out, verbose=True).show(record)  # it is over at once: there is nothing to look on at
    return tell_end(session.out, record, form, look="look at its record with -o json")


async def _run(
    session: Session,
    card: CardLike,
    inputs: dict[str, Any],
    options: dict[str, Any],
    form: Form | None,
    *,
    detach: bool,
    deadline: float | None,
) -> int:
    out = session.out
    async with session.orchestrator() as orchestrator:
        runs = orchestrator.runs
        run = await runs.start(card, inputs, detach=detach, **options)
        if detach:
            if form is None or form == Form.RAW:
                out.line(run)
            else:
                out.data((await runs.get(run)).to_dict(), form)
            return 0
        try:
            async with asyncio.timeout(deadline):
                record = await _follow(session, runs, run)
        except TimeoutError:
            raise CallTimeoutError(
                f"the run {run} has not ended within {deadline:g} s: the next orchestrator goes on with it (such as 'roster "
                f"orchestrate'); see 'roster describe run {run}', or end it with 'roster run cancel {run}'"
            ) from None
        except asyncio.CancelledError:
            out.note(
                f"the run {run} is not ended by this: the next orchestrator goes on with it (such as 'roster orchestrate'); "
                f"to end it: roster run cancel {run}"
            )
            raise
    return tell_end(out, record, form, look=f"see 'roster describe run {run}'")


async def _follow(session: Session, runs: Runs, run: str) -> RunRecord:
    shown = progress(session.out, verbose=bool(session.verbose))
    try:
        async for record in runs.watch(run, interval=_EVERY):
            shown.show(record)
    finally:
        shown.close()
    return record


def tell_end(out: Output, record: RunRecord, form: Form | None, *, look: str) -> int:
    """Print how a run ended; return the exit status."""
    if form in (Form.JSON, Form.YAML):
        out.data(record.to_dict(), form)
    elif record.state == "succeeded" or record.result is not None:
        if isinstance(record.result, str):
            out.text(record.result)
        else:
            out.json(record.result, compact=form == Form.RAW)
    if record.state != "succeeded":
        out.error(f"{why(record)}; {look}")
    return status_of(record)
