"""`roster drain` and `roster undrain`: no new work for a node, and work again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster._clock import boottime
from roster.cli.complete import complete_nodes
from roster.cli.names import node_ref, scope
from roster.cli.options import Namespace, seconds
from roster.cli.session import Session
from roster.errors import CallError, CallTimeoutError

if TYPE_CHECKING:
    from roster.registry import NodeRecord, Registry

DRAIN_EXAMPLES = (
    "roster drain writer-001 -n ai-team",
    "roster drain writer-001 --wait --timeout 5m      until it has finished what it runs",
)
UNDRAIN_EXAMPLES = ("roster undrain writer-001 -n ai-team",)
_CONFIRM = 5.0

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
            running = told.get("active_tasks") if isinstance(told, dict) else None
            if wait and running != 0:
                await _until_idle(registry, record, deadline - boottime(), timeout)


async def _tell(session: Session, bus: Any, record: NodeRecord, signal: str, timeout: float) -> Any:
    """Tell the node itself; return its confirmation, None if it gave none."""
    if record.state == "offline" or not record.mindbus_queue:
        return None
    try:
        return await bus.send_control(record.mindbus_queue, signal, timeout=timeout)
    except CallError as error:
        effect = "callers pass it over all the same" if signal == "drain" else "the mark is gone all the same"
        session.out.warning(f"{record.key} itself could not be told ({error}); {effect}")
        return None


async def _until_idle(registry: Registry, record: NodeRecord, left: float, timeout: float) -> None:
    """Wait until a node says that it runs nothing, or is gone.

    Raises:
        CallTimeoutError: it still runs something at the deadline.
    """
    try:
        async with asyncio.timeout(max(0.0, left)):
            async for event in registry.watch(namespace=record.namespace):
                if event.name != record.name:
                    continue
                record = event.record
                if event.type == "removed" or record.state == "offline" or record.active_tasks == 0:
                    return
    except TimeoutError:
        raise CallTimeoutError(
            f"{record.key} still runs {record.active_tasks} commands after {timeout:g} s; it takes no new ones: "
            "wait longer with --timeout"
        ) from None
