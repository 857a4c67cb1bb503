"""Spans of calls, messages and handlers, by OpenTelemetry's API; imported by `roster.bus.tracing` where they are recorded.

Names and attributes are those of the semantic conventions for RPC and messaging. No attribute holds params, results, an
error's text or a URL's secrets: what an error says may quote all of them, so a span has its code alone.

Source: https://opentelemetry.io/docs/specs/semconv/
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from urllib.parse import urlsplit

from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from roster._version import __version__
from roster.bus import tracing
from roster.bus.message import Message
from roster.errors import CallError, Code

_PORTS = {"amqp": 5672, "amqps": 5671}
_w3c = TraceContextTextMapPropagator()


class CallSpan:
    """The span of a call."""

    def __init__(self, span: otel.Span) -> None:
        self.span = span
        self.trace = _trace_of(span) or tracing.trace_below(None)

    def tried(self, attempts: int) -> None:
        self.span.set_attribute("roster.attempts", attempts)


class Otel:
    """Records spans with a tracer provider."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("roster", __version__)

    @contextmanager
    def call(self, capability: str, above: tracing.Trace | None) -> Iterator[CallSpan]:
        attributes = {"rpc.system.name": "roster", "rpc.method": capability}
        parent = _current() or _context(above)
        with self._recorded(capability, SpanKind.CLIENT, attributes, parent) as span:
            with otel.use_span(span, record_exception=False, set_status_on_exception=False):
                yield CallSpan(span)
            span.set_attribute("rpc.status_code", "OK")

    @contextmanager
    def publish(
        self, url: str, destination: str, message: Message, within: tracing.Span | None
    ) -> Iterator[None]:
        parent = otel.set_span_in_context(within.span) if isinstance(within, CallSpan) else _current()
        if parent is None:
            parent = _context(tracing.trace_here())
        attributes = {
            **_about(url, destination, message),
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
        }
        with self._recorded(f"publish {destination}", SpanKind.PRODUCER, attributes, parent) as span:
            trace = _trace_of(span)
            if trace is not None:
                message.traceparent, message.tracestate = trace
            yield

    @contextmanager
    def handle(self, url: str, queue: str, node: str, message: Message) -> Iterator[None]:
        attributes = {
            **_about(url, queue, message),
            "messaging.operation.name": "handle",
            "messaging.operation.type": "process",
            "rpc.method": message.action,
            "roster.node": node,
        }
        sent = _context(tracing.Trace(message.traceparent, message.tracestate))
        links = [Link(otel.get_current_span(sent).get_span_context())] if sent is not None else None
        with (
            self._recorded(f"handle {queue}", SpanKind.CONSUMER, attributes, sent, links) as span,
            otel.use_span(span, record_exception=False, set_status_on_exception=False),
        ):
            yield

    @contextmanager
    def _recorded(
        self,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, str | int],
        parent: Context | None,
        links: list[Link] | None = None,
    ) -> Iterator[otel.Span]:
        span = self._tracer.start_span(
            name, parent or Context(), kind=kind, attributes=attributes, links=links, record_exception=False
        )
        try:
            yield span
        except BaseException as raised:
            _note(span, raised)
            raise
        finally:
            span.end()


def _note(span: otel.Span, raised: BaseException) -> None:
    """Say by its code what went wrong. What it says in words may quote what was sent."""
    if isinstance(raised, CallError):
        code = raised.code
        span.set_attribute("roster.outcome", raised.outcome)
        span.set_attribute("roster.retryable", raised.retryable)
    else:
        code = Code.CANCELLED if isinstance(raised, asyncio.CancelledError) else Code.UNKNOWN
    span.set_attribute("error.type", code.value)
    span.set_attribute("rpc.status_code", code.value)
    span.add_event("exception", {"exception.type": f"{type(raised).__module__}.{type(raised).__qualname__}"})
    span.set_status(StatusCode.ERROR, code.value)


def _about(url: str, destination: str, message: Message) -> dict[str, str | int]:
    return {
        **_place(url),
        "messaging.destination.name": destination,
        "messaging.message.id": message.id,
        "messaging.message.conversation_id": message.correlation or message.id,
    }


@lru_cache(maxsize=64)
def _place(url: str) -> Mapping[str, str | int]:
    """Return what is said of a bus: its kind, and its server where there is one alone."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS:
        return {"messaging.system": "roster"}
    about: dict[str, str | int] = {"messaging.system": "rabbitmq"}
    if parts.hostname and "," not in parts.netloc:
        about |= {"server.address": parts.hostname, "server.port": parts.port or _PORTS[parts.scheme]}
    return about


def _current() -> Context | None:
    """Return the context of the span that is current here, None: there is none."""
    span = otel.get_current_span()
    return otel.set_span_in_context(span) if span.get_span_context().is_valid else None


def _context(trace: tracing.Trace | None) -> Context | None:
    """Return the context of a place in a trace, None where a message brought no such place."""
    if trace is None:
        return None
    context = _w3c.extract({"traceparent": trace.traceparent, "tracestate": trace.tracestate}, Context())
    return context if otel.get_current_span(context).get_span_context().is_valid else None


def _trace_of(span: otel.Span) -> tracing.Trace | None:
    carrier: dict[str, str] = {}
    _w3c.inject(carrier, otel.set_span_in_context(span, Context()))
    return tracing.Trace(carrier["traceparent"], carrier.get("tracestate", "")) if carrier else None
