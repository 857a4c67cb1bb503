"""`roster wait`: returns when nodes are ready or gone, for scripts and for the probes of containers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from roster.cli.names import Kind, default_namespace, node_ref, split_objects
from roster.cli.options import Namespace, seconds
from roster.cli.session import Session

if TYPE_CHECKING:
    from roster.registry import Registry

EXAMPLES = (
    "roster wait node/writer-001 -n ai-team",
    "roster wait node writer-001 writer-002 -n ai-team --timeout 2m",
    "roster wait capability/write_article            until somebody can do it",
    "roster wait node/writer-001 -n ai-team --for gone",
    "roster wait node/writer-001 -n ai-team --timeout 0   look once: a probe",
)
_READY = ("ready", "busy")
_TIME_IS_UP = 10


class Goal(StrEnum):
    """What is waited for."""

    READY = "ready"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One thing that is waited for; `label` as it is printed."""

    kind: Kind
    label: str
    namespace: str | None
    name: str


def wait(
    session: Session,
    objects: Annotated[
        list[str],
        typer.Argument(metavar="KIND NAME... | KIND/NAME...", help="node or capability, and which."),
    ],
    namespace: Namespace = None,
    goal: Annotated[
        Goal, typer.Option("--for", help="ready: ready or busy. gone: registered no more, or offline.")
    ] = Goal.READY,
    timeout: Annotated[
        str,
        typer.Option("--timeout", metavar="DURATION", help="How long to wait; 0 looks once."),
    ] = "30s",
) -> int:
    """Wait until nodes are ready, or gone.

    A capability is ready when a healthy node offers it. All that is named must hold at one time. Exits with 10 when the
    time is up before that, and says how things stand.
    """
    kind, names = split_objects(objects)
    if not names:
        raise typer.BadParameter(f"name which {kind}: node/NAME, capability/NAME")
    limit = seconds(timeout, "--timeout") or 0.0
    wanted = [_read(kind, name, namespace) for name in names]
    return session.run(_wait(session, wanted, goal, limit))


def _read(kind: Kind, name: str, namespace: str | None) -> _Wanted:
    if kind == "capabilities":
        return _Wanted(kind, f"capability/{name}", namespace, name)
    ref = node_ref(name, namespace)
    space = ref.namespace or default_namespace()
    return _Wanted(kind, f"node {space}/{ref.name}", space, ref.name)


async def _wait(session: Session, wanted: list[_Wanted], goal: Goal, limit: float) -> int:
    async with session.registry() as registry:
        if goal == Goal.READY and all([await _ready_by_key(registry, one) for one in wanted]):
            return 0
        await registry.synced()

        def missing() -> list[str]:
            return [said for one in wanted if (said := _misses(registry, one, goal)) is not None]

        try:
            async with asyncio.timeout(limit or None), registry.watch() as events:
                # Each change of the copy is an event. The copy is asked: it may be further than the event.
                while missing() and limit:
                    await anext(events)
        except TimeoutError:
            pass  # told below, as of now
        if not (still := missing()):
            return 0
        waited = f" within {limit:g} s" if limit else ""
        session.out.error(f"not {goal.value}{waited}: {'; '.join(still)}")
        return _TIME_IS_UP


async def _ready_by_key(registry: Registry, one: _Wanted) -> bool:
    """Look at one node's own keys alone: a probe that comes every few seconds must not read the whole registry."""
    from roster.errors import DocumentError
    from roster.registry.facts import CORDONED
    from roster.registry.keys import node_key, status_key
    from roster.registry.status import NodeStatus

    if one.kind != "nodes" or one.namespace is None:
        return False
    status = await registry.store.get(status_key(one.namespace, one.name))
    passport = await registry.store.get(node_key(one.namespace, one.name))
    # An agent of the founding document has no status, and who is cordoned is not ready: the copy knows.
    if status is None or passport is None or CORDONED.encode() in passport.value:
        return False
    try:
        return NodeStatus.decode(status.value, status.key).state in _READY
    except DocumentError:
        return False


def _misses(registry: Registry, one: _Wanted, goal: Goal) -> str | None:
    """Return how things stand if that is not what is waited for."""
    if one.kind == "capabilities":
        able = [
            record
            for record in registry.informer.all()
            if record.healthy
            and one.name in record.capabilities
            and (one.namespace is None or record.namespace == one.namespace)
        ]
        if bool(able) is (goal == Goal.READY):
            return None
        return f"{one.label} is offered by {len(able)} healthy nodes"
    record = registry.informer.get(f"{one.namespace}/{one.name}")
    state = "offline" if record is None else record.state
    if goal == Goal.GONE:
        return None if state == "offline" else f"{one.label} is {state}"
    if state in _READY:
        return None
    return f"{one.label} is {'not registered' if record is None else state}"
