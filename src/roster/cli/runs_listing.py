"""`roster get runs` and `roster describe run`: runs of process cards as rows and in full."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from roster._clock import seconds_since
from roster._durations import show_duration
from roster.cli.encode import to_json
from roster.cli.listing import as_list
from roster.cli.names import run_id
from roster.cli.output import Listing
from roster.cli.run_words import answers, indent, paint_run_state, took, waits_for
from roster.cli.table import Column, Table

if TYPE_CHECKING:
    from roster.cli.session import Session
    from roster.orchestrator.runs.book import Book
    from roster.orchestrator.runs.record import RunRecord, RunState, StepRecord

_WATCH_SECONDS = 1.0
_WIDTH = 15
_SHOWN_VALUE = 2000


def wanted_states(text: str | None) -> list[RunState]:
    """Read `--state`.

    Raises:
        typer.BadParameter: one is no state.
    """
    from roster.orchestrator.runs.record import STATES

    words = [word for word in (text or "").split(",") if word]
    if unknown := [word for word in words if word not in STATES]:
        raise typer.BadParameter(f"--state {unknown[0]!r}: there are {', '.join(STATES)}")
    return [state for state in STATES if state in words]


def get_runs(
    session: Session,
    names: Sequence[str],
    form: Listing,
    *,
    states: Sequence[RunState],
    card: str | None,
    limit: int,
    before: str | None,
    watch: bool,
    header: bool,
) -> None:
    """Print runs, the youngest first; or those that are named."""

    def look(book: Book) -> list[RunRecord]:
        if names:
            return [book.get(run_id(name)) for name in names]
        return book.list(states=states, card=card, limit=limit, before=before)

    with session.book() as book:
        found = look(book)
        if not found and form in (Listing.TABLE, Listing.WIDE, Listing.NAME) and not watch:
            asked = states or card is not None or before is not None
            session.out.note("no runs like that" if asked else "no runs: begin one with 'roster run CARD'")
            return
        table = _print(session, found, form, header=header, single=len(names) == 1, each=watch)
        if watch:
            _watch(session, book, look, found, form, table)


def _print(
    session: Session, found: Sequence[RunRecord], form: Listing, *, header: bool, single: bool, each: bool
) -> Table | None:
    out = session.out
    if form == Listing.NAME:
        out.lines(f"run/{record.id}" for record in found)
    elif form in (Listing.JSON, Listing.YAML):
        if each:
            for record in found:
                _one(session, record, form)
        else:
            documents = [record.to_dict() for record in found]
            out.data(documents[0] if single else as_list(documents), form)
    else:
        wide = form == Listing.WIDE
        return out.table(_columns(wide), [_row(record, wide=wide) for record in found], header=header)
    return None


def _watch(
    session: Session, book: Book, look: Any, found: Sequence[RunRecord], form: Listing, table: Table | None
) -> None:
    """Print a row (or a document, one a line) whenever a run has changed, until Ctrl-C."""
    shown = {record.id: record for record in found}
    while True:
        time.sleep(_WATCH_SECONDS)
        for record in reversed(look(book)):
            if shown.get(record.id) == record:
                continue
            shown[record.id] = record
            if table is not None:
                session.out.row(table, _row(record, wide=form == Listing.WIDE))
            else:
                _one(session, record, form)


def _one(session: Session, record: RunRecord, form: Listing) -> None:
    if form == Listing.NAME:
        session.out.line(f"run/{record.id}")
    elif form == Listing.JSON:
        session.out.json(record.to_dict(), compact=True)
    else:
        session.out.line("---")
        session.out.yaml(record.to_dict())


def _columns(wide: bool) -> list[Column]:
    return [
        Column("ID"),
        Column("CARD"),
        Column("STATE", paint=paint_run_state),
        Column("AGE"),
        Column("TIME"),
        Column("WHY", gives_way=True),
        *(
            [Column("VERSION"), Column("RECOVERIES"), Column("LAST PROGRESS"), Column("EXECUTOR")]
            if wide
            else []
        ),
    ]


def _row(record: RunRecord, *, wide: bool) -> list[str]:
    error = record.error or {}
    reason = record.stuck or waits_for(record.waiting) or " ".join(str(error.get("message", "")).split())
    return [
        record.id,
        record.card,
        record.state,
        show_duration(seconds_since(record.created_at)),
        took(record.started_at, record.ended_at),
        reason,
        *(
            [
                record.card_version or "",
                str(record.recoveries),
                _ago(record.last_progress_at),
                record.executor or "",
            ]
            if wide
            else []
        ),
    ]


def _ago(moment: str | None) -> str:
    return "" if moment is None else show_duration(seconds_since(moment))


def describe_runs(session: Session, names: Sequence[str]) -> None:
    """Print everything about runs, for people."""
    with session.book() as book:
        for number, name in enumerate(names):
            session.out.lines([*([""] if number else []), *_lines(book.get(run_id(name)))])


def _lines(record: RunRecord) -> Iterator[str]:
    yield _field("ID", record.id)
    version = f" {record.card_version}" if record.card_version else ""
    yield _field("Card", f"{record.card}{version} ({record.digest})")
    yield _field("State", record.state)
    if record.stuck:
        yield _field("Stuck", record.stuck)
    yield _field("Waiting", waits_for(record.waiting) or "<nothing>")
    for step in record.steps:
        for command in answers(record, step):
            yield _field("", command)
    yield _field("Created", _moment(record.created_at))
    yield _field("Started", _moment(record.started_at))
    yield _field("Last progress", _moment(record.last_progress_at))
    yield _field(
        "Ended",
        _moment(record.ended_at)
        + (f", after {took(record.created_at, record.ended_at)}" if record.ended_at else ""),
    )
    yield _field("Executor", record.executor or "<none>")
    yield _field("Recoveries", str(record.recoveries))
    yield _field("Inputs", _value(record.inputs))
    if record.error:
        yield _field("Error", _error(record.error))
    if record.result is not None:
        yield _field("Result", _value(record.result))
    if not record.steps:
        yield "Steps:         <none>"
        return
    yield "Steps:"
    rows = list(_rows(record.steps))
    table = Table(
        [Column(title) for title in ("STEP", "KIND", "STATE", "NODE", "TRIES", "BEGAN", "TIME")],
        rows,
        width=None,
        colour=False,
    )
    yield f"  {table.header()}"
    for step, line in zip(record.steps, table.lines(), strict=True):
        yield f"  {line}"
        yield from (f"      {more}" for more in _more(step))


def _rows(steps: Sequence[StepRecord]) -> Iterator[list[str]]:
    depth = indent(steps)
    for step in steps:
        yield [
            "  " * depth[step.key] + step.id + (f" ({step.visit})" if step.visit > 1 else ""),
            f"{step.kind} {step.action}" if step.action else step.kind,
            step.state,
            step.node or "",
            str(len(step.attempts)) if step.action else "",
            step.started_at or "",
            took(step.started_at, step.ended_at),
        ]


def _more(step: StepRecord) -> Iterator[str]:
    """Tell what there is to tell of a step beside its row: only where something went other than well."""
    if step.waiting:
        yield waits_for(step.waiting)
    if step.redispatched:
        times = "once" if step.redispatched == 1 else f"{step.redispatched} times"
        yield f"handed to a node again {times}, the first time {step.dispatched_at}"
    troubled = [attempt for attempt in step.attempts if attempt.get("error")]
    for attempt in troubled:
        error = " ".join(str(attempt["error"]).split())
        yield f"{attempt.get('at') or ''} {attempt.get('node') or 'no node'}: {attempt.get('outcome')}: {error}"
    if step.error:
        yield f"failed: {_error(step.error)}"


def _error(error: Mapping[str, Any]) -> str:
    at = " ".join(f"{name} {error[name]}" for name in ("step", "field") if error.get(name))
    message = " ".join(str(error.get("message", "")).split())
    return f"{error.get('type') or error.get('code')}: {message}{f' ({at})' if at else ''}"


def _field(title: str, text: str) -> str:
    return (f"{title}:" if title else "").ljust(_WIDTH) + text


def _moment(moment: str | None) -> str:
    return "<not yet>" if moment is None else f"{moment} ({_ago(moment)} ago)"


def _value(value: Any) -> str:
    text = to_json(value, indent=None)
    return text if len(text) <= _SHOWN_VALUE else f"{text[:_SHOWN_VALUE]}... (all of it: -o json)"
