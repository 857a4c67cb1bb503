"""`roster tap`: what is published on the bus, as it happens."""

from __future__ import annotations

import asyncio
import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster._clock import boottime, utc_now
from roster.cli.encode import to_json
from roster.cli.options import seconds
from roster.cli.session import Session
from roster.cli.stream import Stream
from roster.errors import CallTimeoutError

if TYPE_CHECKING:
    from roster.bus import Events, Message, Published
    from roster.cli.output import Output

EXAMPLES = (
    "roster tap                                    everything that is published",
    "roster tap 'evt.#' 'ctl.*.ai-team'",
    "roster tap 'evt.orders.*' --count 1 --timeout 1m -o json",
    "roster tap 'evt.#' -o json | jq -r '.data.title'",
)
_TELL_LOST = 1.0  # seconds between two lines that say how much was lost
_LIMIT = 16 * 1024 * 1024  # a message read within its limit may be longer when it is written anew


class Form(StrEnum):
    """How a message is printed."""

    TEXT = "text"
    JSON = "json"


def tap(
    session: Session,
    patterns: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATTERN",
            help="Topics as in AMQP: words divided by dots, * is one word, # any number of words; none: everything.",
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("--count", metavar="N", min=1, help="End after so many messages.", show_default=False),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", metavar="DURATION", help="End after so long.", show_default=False),
    ] = None,
    output: Annotated[Form, typer.Option("-o", "--output", help="json: one CloudEvent a line.")] = Form.TEXT,
) -> None:
    """Show what is published on the bus, until Ctrl-C.

    That is events (evt.TOPIC.TYPE), control signals (ctl.TARGET.SCOPE), and commands to a routing key. What goes to one
    node's queue, and its answers, are not shown: nobody but the receiver gets them. A line is: time of arrival, kind,
    routing key, sender, data.
    """
    limit = seconds(timeout, "--timeout")
    try:
        session.run(_tap(session, tuple(patterns or ()), count, limit, output))
    except KeyboardInterrupt:
        return  # that is how it is ended


async def _tap(
    session: Session, patterns: tuple[str, ...], count: int | None, limit: float | None, form: Form
) -> None:
    left = count
    async with session.bus() as bus, bus.tap(*patterns) as events, Stream() as stream:
        session.out.note(f"listening on {bus.url} to {' '.join(patterns) or 'everything'}; Ctrl-C ends it")
        losses = _Losses(session.out, events)
        try:
            async with asyncio.timeout(limit):
                async for seen in events:
                    if form == Form.JSON:
                        await stream.json(_cloud_event(seen))
                    else:
                        await stream.line(_line(seen))
                    losses.tell()
                    if left is not None:
                        left -= 1
                        if not left:
                            break
        except TimeoutError:
            if left is not None:
                raise CallTimeoutError(
                    f"{(count or 0) - left} of {count} messages came within {limit:g} s"
                ) from None
        finally:
            losses.tell(last=True)


class _Losses:
    """Says how many messages a slow reader has lost, and not too often."""

    def __init__(self, out: Output, events: Events[Published]) -> None:
        self._out = out
        self._events = events
        self._told = 0
        self._when = float("-inf")

    def tell(self, *, last: bool = False) -> None:
        lost, now = self._events.dropped, boottime()
        if lost > self._told and (last or now - self._when >= _TELL_LOST):
            self._told, self._when = lost, now
            self._out.warning(f"{lost} messages lost: they come faster than this output is read")


def _line(seen: Published) -> str:
    message = seen.message
    kind = message.kind.name.lower()
    data = to_json(message.data, indent=None)
    return f"{utc_now()[:19]}Z {kind:<7} {seen.key} {message.source or '-'} {data}"


def _cloud_event(seen: Published) -> dict[str, Any]:
    """Return the message as it travels, with its routing key as one more attribute."""
    event: dict[str, Any] = _as_event(seen.message)
    data = event.pop("data")
    return {**event, "routingkey": seen.key, "data": data}


def _as_event(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(message.to_bytes(limit=_LIMIT))
    return found
