"""Where a call stands in a trace (W3C Trace Context), and the one hook for whoever records spans of it.

A trace goes from a call into its commands, to the handler, and on into what the handler calls and publishes, by the
attributes `traceparent` and `tracestate` of the messages, whoever records spans or not. Nobody here imports a tracer: a
program that has set OpenTelemetry's tracer provider has imported its API already, and then spans are made of it
(`roster.bus.otel`). Everybody else pays for one look into a dict a call.

Source: https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

from roster.bus.base import Bus, Exchange
from roster.bus.context import current_command
from roster.bus.message import Message


class Trace(NamedTuple):
    """A place in a trace, as messages carry it.

    Attributes:
        traceparent: trace, span and flags.
        tracestate: what tracers have added.
    """

    traceparent: str
    tracestate: str = ""


class Span(Protocol):
    """The span of a call."""

    @property
    def trace(self) -> Trace:
        """Its place, for what is sent on its behalf."""
        ...

    def tried(self, attempts: int) -> None:
        """Say how many tries the call took."""
        ...


class Tracer(Protocol):
    """Whoever records spans. Each context manager ends its span, and notes what was raised."""

    def call(self, capability: str, above: Trace | None) -> AbstractContextManager[Span]:
        """Record a call, from its beginning to its result; it is current meanwhile."""
        ...

    def publish(
        self, url: str, destination: str, message: Message, within: Span | None
    ) -> AbstractContextManager[object]:
        """Record that a message is handed to the bus; the message gets the span's place in the trace."""
        ...

    def handle(self, url: str, queue: str, node: str, message: Message) -> AbstractContextManager[object]:
        """Record a handler's work; it is current meanwhile."""
        ...


# Version, trace, parent, flags. Only versions to come may add to it.
_PLACE = r"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_TRACEPARENT = re.compile(rf"00{_PLACE}|(?!00|ff)[0-9a-f]{{2}}{_PLACE}(?:-.*)?")
_NOBODY = nullcontext()
_known: tuple[object, Tracer | None] = (None, None)


def tracer() -> Tracer | None:
    """Return who records spans here, None: nobody does."""
    api = sys.modules.get("opentelemetry.trace")
    return None if api is None else _tracer(api)


def _tracer(api: Any) -> Tracer | None:
    global _known
    get_provider = getattr(api, "get_tracer_provider", None)
    if get_provider is None:
        return None  # another thread is importing it
    provider = get_provider()
    if provider is not _known[0]:
        if isinstance(provider, (api.ProxyTracerProvider, api.NoOpTracerProvider)):
            _known = provider, None
        else:
            from roster.bus.otel import Otel

            _known = provider, Otel(provider)
    return _known[1]


def trace_below(message: Message | None) -> Trace:
    """Return the place of what is sent on behalf of a command: the command's own, where nobody adds a span to it.

    Without a command, or where it brought no trace, a new one begins. It is marked as sampled, so that nodes that record
    spans do so, though nobody does here.
    """
    return _trace_of(message) or Trace(f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01")


def trace_here() -> Trace | None:
    """Return the place in the trace of the command that is being handled here, None: there is none."""
    above = current_command.get()
    return None if above is None else _trace_of(above.message)


def _trace_of(message: Message | None) -> Trace | None:
    if message is None or not _TRACEPARENT.fullmatch(message.traceparent):
        return None
    return Trace(message.traceparent, message.tracestate)


def call(capability: str, above: Message | None) -> AbstractContextManager[Span | None]:
    """Record a call made on behalf of the command `above`, or of nobody's."""
    found = tracer()
    return _NOBODY if found is None else found.call(capability, _trace_of(above))


async def send(
    bus: Bus,
    queue: str,
    message: Message,
    *,
    on_progress: Callable[[Message], None] | None = None,
    within: Span | None = None,
) -> Exchange:
    """Do as `bus.send` does, and record it.

    Args:
        within: the call that it belongs to; without one it belongs to what is current here.
    """
    found = tracer()
    if found is None:
        return await bus.send(queue, message, on_progress=on_progress)
    with found.publish(bus.url, queue, message, within):
        return await bus.send(queue, message, on_progress=on_progress)


async def publish(
    bus: Bus, routing_key: str, message: Message, *, on_reply: Callable[[Message], None] | None = None
) -> int:
    """Do as `bus.publish` does, under the trace that the code runs in, and record it."""
    if (trace := trace_here()) is not None:
        message.traceparent, message.tracestate = trace
    found = tracer()
    if found is None:
        return await bus.publish(routing_key, message, on_reply=on_reply)
    with found.publish(bus.url, routing_key, message, None):
        return await bus.publish(routing_key, message, on_reply=on_reply)


def handle(url: str, queue: str, node: str, message: Message) -> AbstractContextManager[object]:
    """Record a handler's work on a command."""
    found = tracer()
    return _NOBODY if found is None else found.handle(url, queue, node, message)
