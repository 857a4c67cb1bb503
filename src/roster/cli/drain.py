"""`roster drain` and `roster undrain`: no new work for a node, and work again."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster._clock import boottime
from roster.cli.complete import complete_nodes
from roster.cli.names import node_ref, scope
from roster.cli.options import Namespace, seconds
from roster.cli.session import Session
from roster.errors import CallError, CallTimeoutError

if TYPE_CHECKING:
    from roster.bus.mindbus import MindBus
    from roster.registry import NodeRecord, Registry

DRAIN_EXAMPLES = (
    "roster drain writer-001 -n ai-team",
    "roster drain writer-001 --wait --timeout 5m      until it has finished what it runs",
)
UNDRAIN_EXAMPLES = ("roster undrain writer-001 -n ai-team",)
_CONFIRM = 5.0
_ASK_AGAIN = 1.0

Names = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME", help="Nodes; also node/NAME, NAMESPACE/NAME.", autocompletion=complete_nodes
    ),
]
Timeout = Annotated[str, typer.Option("--timeout", metavar="DURATION", help="For all of it.")]


def drain(
    session: Session,
    names: Names,
    namespace: Namespace = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it has finished what it runs.", show_default=False)
    ] = False,
    timeout: Timeout = "30s",
) -> None:
    """Give a node no new work; what it runs it finishes.

    The node is marked in the registry, so that callers pass it over, also after it is started again; and it is told over
    the bus, so that it hands back what waits in its hands. 'roster undrain' takes both back.
    """
    session.run(_each(session, names, namespace, "drain", seconds(timeout, "--timeout") or 0.0, wait=wait))


def undrain(session: Session, names: Names, namespace: Namespace = None, timeout: Timeout = "30s") -> None:
    """Give a drained node work again."""
    session.run(_each(session, names, namespace, "undrain", seconds(timeout, "--timeout") or 0.0, wait=False))


async def _each(
    session: Session, names: list[str], namespace: str | None, signal: str, timeout: float, *, wait: bool
) -> None:
    deadline = boottime() + timeout
    async with session.registry() as registry, session.bus() as bus:
        for word in names:
            ref = node_ref(word, namespace)
            record = await registry.get(ref.name, ref.namespace or scope(None, False))
            mark = registry.drain if signal == "drain" else registry.undrain
            await mark(record.name, record.namespace)
            session.out.line(f"node/{record.name} {signal}ed")
            told = await _tell(session, bus, record, signal, min(_CONFIRM, max(0.1, deadline - boottime())))
            if signal == "undrain" and isinstance(told, dict) and told.get("reasons"):
                why = ", ".join(map(str, told["reasons"]))
                session.out.warning(f"{record.key} still takes no new work: {why}")
            elif told is not None:
                await _until_shown(session, registry, record, signal, min(_CONFIRM, deadline - boottime()))
            if wait:
                await _until_idle(registry, bus, record, told, deadline, timeout)


async def _tell(session: Session, bus: MindBus, record: NodeRecord, signal: str, timeout: float) -> Any:
    """Tell the node itself; return its confirmation, None if it gave none."""
    if record.state == "offline" or not record.mindbus_queue:
        return None
    try:
        return await bus.send_control(record.mindbus_queue, signal, timeout=timeout)
    except CallError as error:
        effect = "callers pass it over all the same" if signal == "drain" else "the mark is gone all the same"
        session.out.warning(f"{record.key} itself could not be told ({error}); {effect}")
        return None


async def _until_shown(
    session: Session, registry: Registry, record: NodeRecord, signal: str, left: float
) -> None:
    """Wait until the node has written what it has confirmed: what follows meets no older state."""
    try:
        async with asyncio.timeout(max(0.0, left)):
            async for event in registry.watch(namespace=record.namespace):
                if event.name != record.name:
                    continue
                said = event.record.status
                if event.type == "removed" or said is None:
                    return
                # Its own word and the mark together, so that neither is still on its way.
                drains = {said.state == "draining", event.record.state == "draining"}
                if drains == {signal == "drain"}:
                    return
    except TimeoutError:
        session.out.warning(f"{record.key} has confirmed, but the registry does not show it yet: look again")


async def _until_idle(
    registry: Registry, bus: MindBus, record: NodeRecord, told: Any, deadline: float, timeout: float
) -> None:
    """Wait until a node runs nothing any more, or is gone.

    The load in the registry lags by seconds, so the node itself is asked; a change in the registry, or a second, is when
    to ask again. A node that cannot be asked is believed what it writes.

    Raises:
        CallTimeoutError: it still runs something at the deadline.
    """
    async with aclosing(registry.watch(namespace=record.namespace)) as events:
        while True:
            running = told.get("active_tasks") if isinstance(told, dict) else None
            if running is None:
                running = record.active_tasks
            if running == 0 or record.state == "offline":
                return
            left = deadline - boottime()
            if left <= 0:
                raise CallTimeoutError(
                    f"{record.key} still runs {running} commands after {timeout:g} s; it takes no new ones: "
                    "wait longer with --timeout"
                )
            try:
                async with asyncio.timeout(min(_ASK_AGAIN, left)):
                    event = await anext(events)
                    while event.name != record.name:
                        event = await anext(events)
            except TimeoutError:
                pass  # no news: ask again
            else:
                record = event.record
                if event.type == "removed":
                    return
            try:
                told = await bus.send_control(record.mindbus_queue, "drain", timeout=_CONFIRM)
            except CallError:
                told = None  # it is leaving, or was never to be asked: the registry tells
