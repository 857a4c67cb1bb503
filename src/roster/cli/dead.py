"""`roster dead`: the commands that nobody gets again by themselves, to look at, send again, or drop."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster._durations import show_duration
from roster.cli.call import Result, print_result
from roster.cli.consent import consent
from roster.cli.encode import to_json
from roster.cli.listing import as_list
from roster.cli.options import AnyNamespace, SelectorText, seconds
from roster.cli.output import Listing
from roster.cli.session import Session
from roster.cli.table import Column
from roster.errors import LetterNotFoundError, RosterError

if TYPE_CHECKING:
    from roster.bus import Buried, Message
    from roster.orchestrator import CallAnswer

EXAMPLES = (
    "roster dead list",
    "roster dead show 5f1c9a7b2e3d4c6f8a10-2",
    "roster dead retry 5f1c9a7b2e3d4c6f8a10-2 --timeout 5m",
    "roster dead drop --all",
)
LIST_EXAMPLES = (
    "roster dead list",
    "roster dead list -o wide",
    "roster dead list -o json | jq '.items[].reason'",
)
SHOW_EXAMPLES = (
    "roster dead show 5f1c9a7b2e3d4c6f8a10-2",
    "roster dead show 5f1c9a7b2e3d4c6f8a10-2 -o json | jq .message.data.params",
)
RETRY_EXAMPLES = (
    "roster dead retry 5f1c9a7b2e3d4c6f8a10-2 --timeout 5m",
    "roster dead retry 5f1c9a7b2e3d4c6f8a10-2 -n ai-team -l tier=trial     on one of these nodes",
)
DROP_EXAMPLES = (
    "roster dead drop 5f1c9a7b2e3d4c6f8a10-2",
    "roster dead drop --all --yes        without asking",
)
_INDENT = 14

Id = Annotated[str, typer.Argument(metavar="ID", help="As 'roster dead list' shows it.")]


class Form(StrEnum):
    """How one dead letter is printed."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


def root(session: Session) -> None:
    """Look at dead letters, send them again, or drop them.

    A dead letter is a command that is not sent again by itself: it may have started on three nodes and each was gone
    before it answered, or its caller was gone as well, or it was no message at all.
    """


# -- looking ------------------------------------------------------------------------------------------------------


def list_(
    session: Session,
    output: Annotated[Listing, typer.Option("-o", "--output", help="How to print it.")] = Listing.TABLE,
    no_headers: Annotated[
        bool, typer.Option("--no-headers", help="No headings.", show_default=False)
    ] = False,
) -> None:
    """List the dead letters, oldest first."""
    out = session.out
    letters = session.run(_letters(session))
    if output == Listing.NAME:
        out.lines(letter.id for letter in letters)
    elif output in (Listing.JSON, Listing.YAML):
        out.data(as_list(map(_document, letters)), output)
    elif not letters:
        out.note("no dead letters")
    else:
        wide = output == Listing.WIDE
        columns = [Column("ID"), Column("ACTION"), Column("AGE"), Column("REASON", gives_way=True)]
        if wide:
            columns += [Column("FROM"), Column("QUEUE"), Column("BYTES")]
        out.table(columns, [_row(letter, wide=wide) for letter in letters], header=not no_headers)


def show(
    session: Session,
    letter: Id,
    output: Annotated[Form, typer.Option("-o", "--output", help="How to print it.")] = Form.TEXT,
) -> None:
    """Show a dead letter with the whole message."""
    found = [one for one in session.run(_letters(session)) if one.id == letter]
    if not found:
        raise _missing([letter])
    for number, one in enumerate(found):
        if output == Form.TEXT:
            session.out.lines([*([""] if number else []), *_lines(one)])
        else:
            session.out.data(_document(one), output)


async def _letters(session: Session) -> Sequence[Buried]:
    async with session.bus() as bus:
        return await bus.dead_letters()


def _row(letter: Buried, *, wide: bool) -> list[str]:
    from roster._clock import seconds_since

    message = letter.message
    row = [
        letter.id,
        message.action if message else "",
        show_duration(seconds_since(letter.buried_at)),
        letter.reason,
    ]
    return [*row, message.source if message else "", letter.queue, str(len(letter.body))] if wide else row


def _document(letter: Buried) -> dict[str, Any]:
    """Return a dead letter for programs; a body that is no message is in base64."""
    found: dict[str, Any] = {
        "id": letter.id,
        "reason": letter.reason,
        "buried_at": letter.buried_at,
        "queue": letter.queue,
        "message": None if letter.message is None else _event(letter.message),
    }
    if letter.message is None:
        found["body_base64"] = base64.b64encode(letter.body).decode()
    return found


def _event(message: Message) -> Any:
    """Return a message as the event that it is, in whichever mode it was sent."""
    from roster.bus.base import MAX_BODY_BYTES

    return json.loads(message.to_bytes(limit=MAX_BODY_BYTES))


def _lines(letter: Buried) -> Iterator[str]:
    message = letter.message
    fields = {"ID": letter.id, "Reason": letter.reason, "Buried": letter.buried_at, "Queue": letter.queue}
    if message is not None:
        fields |= {
            "Action": message.action,
            "From": message.source,
            "Sent": message.time,
            "Priority": str(message.priority),
            "Key": message.key,
            "Called by": " > ".join(message.ancestors),
        }
    for title, value in fields.items():
        yield f"{title}:".ljust(_INDENT) + (value or "<none>")
    if message is not None:
        yield "Message:"
        yield from (f"  {line}" for line in to_json(_event(message)).split("\n"))
    else:
        yield f"Body ({len(letter.body)} bytes, no message):"
        text = letter.body.decode(errors="backslashreplace")
        yield from (f"  {line}" for line in text.split("\n"))


# -- sending again ------------------------------------------------------------------------------------------------


def retry(
    session: Session,
    letter: Id,
    timeout: Annotated[str, typer.Option("--timeout", metavar="DURATION", help="For all of it.")] = "30s",
    namespace: AnyNamespace = None,
    selector: SelectorText = None,
    output: Annotated[
        Result, typer.Option("-o", "--output", help="raw prints text as it is, and JSON on one line.")
    ] = Result.JSON,
) -> None:
    """Send a dead letter again, and print its result.

    It goes to a node that does nothing else meanwhile, with a new deadline, and is started once. When the result has come
    the letter is removed; whatever else happens it stays.
    """
    answer = session.run(_retry(session, letter, seconds(timeout, "--timeout") or 0.0, namespace, selector))
    session.out.note(f"dead letter {letter} answered by {answer.node}, and removed")
    print_result(session.out, answer.result, output)


async def _retry(
    session: Session, letter: str, timeout: float, namespace: str | None, selector: str | None
) -> CallAnswer:
    async with session.orchestrator() as orchestrator:
        return await orchestrator.retry(letter, timeout=timeout, namespace=namespace, selector=selector)


# -- dropping -----------------------------------------------------------------------------------------------------


def drop(
    session: Session,
    letters: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="As 'roster dead list' shows them.")
    ] = None,
    all_letters: Annotated[bool, typer.Option("--all", help="All there are.", show_default=False)] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.", show_default=False)] = False,
) -> None:
    """Remove dead letters for good.

    That is asked first; without a terminal to ask on it takes --yes.
    """
    if bool(letters) == all_letters:
        raise typer.BadParameter("say which: IDs, or --all")
    there = session.run(_letters(session))
    if letters and (missing := sorted(set(letters) - {one.id for one in there})):
        raise _missing(missing)
    # Those that were asked about, and none that comes meanwhile.
    chosen = {(one.id, one.buried_at) for one in there if all_letters or one.id in (letters or ())}
    if not chosen:
        session.out.note("no dead letters")
        return
    if not yes:
        what = "1 dead letter" if len(chosen) == 1 else f"{len(chosen)} dead letters"
        consent(f"Drop {what} for good?", RosterError(f"{what} would be dropped for good: add --yes"))
    dropped = session.run(_drop(session, chosen))
    session.out.lines(f"dead letter {one.id or '<none>'} dropped" for one in dropped)


async def _drop(session: Session, chosen: set[tuple[str, str]]) -> Sequence[Buried]:
    async with session.bus() as bus:
        return await bus.drop_dead_letters(lambda one: (one.id, one.buried_at) in chosen)


def _missing(letters: Sequence[str]) -> LetterNotFoundError:
    return LetterNotFoundError(
        f"there is no dead letter {', '.join(map(repr, letters))}; 'roster dead list' shows those there are"
    )
