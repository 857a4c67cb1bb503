"""Roster: service discovery and routing for teams of AI agents.

Names are imported when they are first used, so that `import roster` and `roster --version` cost next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from roster._version import __version__

if TYPE_CHECKING:
    from roster.bus import Message
    from roster.bus.mindbus import MindBus
    from roster.cards import ProcessCard
    from roster.errors import (
        AllNodesBusyError,
        CallCancelledError,
        CallError,
        CallTimeoutError,
        CardError,
        Code,
        DocumentError,
        InvalidParamsError,
        NameConflictError,
        NoCapableNodesError,
        NodeNotFoundError,
        RemoteError,
        RosterError,
        RunConflictError,
        RunError,
        RunNotFoundError,
        RunsUnavailableError,
        StoreUnavailableError,
    )
    from roster.node import Context, Node, current
    from roster.orchestrator import CallAnswer, NodeAnswer, Orchestrator, StreamEvent
    from roster.orchestrator.runs.record import RunRecord, StepRecord
    from roster.passport import Capability, NodePassport, Selector
    from roster.registry import NodeEvent, NodeRecord, Registration, Registry
    from roster.routing import select_best_node, select_least_loaded

_HOMES = {
    "roster.bus": ("Message",),
    "roster.bus.mindbus": ("MindBus",),
    "roster.cards": ("ProcessCard",),
    "roster.errors": (
        "AllNodesBusyError",
        "CallCancelledError",
        "CallError",
        "CallTimeoutError",
        "CardError",
        "Code",
        "DocumentError",
        "InvalidParamsError",
        "NameConflictError",
        "NoCapableNodesError",
        "NodeNotFoundError",
        "RemoteError",
        "RosterError",
        "RunConflictError",
        "RunError",
        "RunNotFoundError",
        "RunsUnavailableError",
        "StoreUnavailableError",
    ),
    "roster.node": ("Context", "Node", "current"),
    "roster.orchestrator": ("CallAnswer", "NodeAnswer", "Orchestrator", "StreamEvent"),
    "roster.orchestrator.runs.record": ("RunRecord", "StepRecord"),
    "roster.passport": ("Capability", "NodePassport", "Selector"),
    "roster.registry": ("NodeEvent", "NodeRecord", "Registration", "Registry"),
    "roster.routing": ("select_best_node", "select_least_loaded"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AllNodesBusyError",
    "CallAnswer",
    "CallCancelledError",
    "CallError",
    "CallTimeoutError",
    "Capability",
    "CardError",
    "Code",
    "Context",
    "DocumentError",
    "InvalidParamsError",
    "Message",
    "MindBus",
    "NameConflictError",
    "NoCapableNodesError",
    "Node",
    "NodeAnswer",
    "NodeEvent",
    "NodeNotFoundError",
    "NodePassport",
    "NodeRecord",
    "Orchestrator",
    "ProcessCard",
    "Registration",
    "Registry",
    "RemoteError",
    "RosterError",
    "RunConflictError",
    "RunError",
    "RunNotFoundError",
    "RunRecord",
    "RunsUnavailableError",
    "Selector",
    "StepRecord",
    "StoreUnavailableError",
    "StreamEvent",
    "__version__",
    "current",
    "select_best_node",
    "select_least_loaded",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'roster' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
