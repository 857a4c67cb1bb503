"""`roster watch`: what happens, one line an event."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from roster._clock import utc_now
from roster.cli.names import scope
from roster.cli.options import AllNamespaces, Namespace, SelectorText
from roster.cli.session import Session

EXAMPLES = (
    "roster watch -A",
    "roster watch -n ai-team -l role=writer",
    "roster watch -A -o json | jq -r 'select(.type == \"offline\") | .name'",
)


class Form(StrEnum):
    """How an event is printed."""

    TEXT = "text"
    JSON = "json"


def watch(
    session: Session,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    selector: SelectorText = None,
    output: Annotated[Form, typer.Option("-o", "--output", help="json: one object a line.")] = Form.TEXT,
) -> None:
    """Follow what happens to nodes, until Ctrl-C.

    A line is: time, event, node, state, load. It begins with 'added' for each node there is; then come added, modified,
    ready, busy, draining, unknown, offline, removed.
    """
    space = scope(namespace, all_namespaces)
    session.run(_watch(session, space, selector, output))


async def _watch(session: Session, namespace: str | None, selector: str | None, form: Form) -> None:
    out = session.out
    async with session.registry() as registry:
        if namespace is not None and not await registry.find(namespace=namespace, selector=selector):
            others = len(await registry.find(selector=selector))
            if others:
                out.note(f"no nodes in namespace {namespace} yet ({others} in others: use -A)")
        async for event in registry.watch(selector=selector, namespace=namespace):
            record = event.record
            if form == Form.TEXT:
                load = f"{record.active_tasks}/{record.capacity}"
                out.line(f"{utc_now()[:19]}Z {event.type:<8} {record.key} {record.state} {load}")
                continue
            line: dict[str, Any] = {
                "time": utc_now(),
                "type": event.type,
                "namespace": event.namespace,
                "name": event.name,
                "state": record.state,
                "active_tasks": record.active_tasks,
                "capacity": record.capacity,
                "uid": record.uid,
                "revision": event.revision,
            }
            out.json(line, compact=True)
