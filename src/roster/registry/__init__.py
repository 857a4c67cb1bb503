"""WHO is here: passports over a store, kept alive by leases, copied to whoever looks."""

from __future__ import annotations

from roster._connecting import Connecting
from roster._logs import quiet_by_default
from roster.registry.contracts import Mismatch
from roster.registry.events import EventType, NodeEvent
from roster.registry.holder import Holder
from roster.registry.informer import Informer
from roster.registry.record import NodeRecord
from roster.registry.registration import Registration
from roster.registry.registry import Registry
from roster.registry.status import Condition, NodeStatus
from roster.registry.summary import CapabilitySummary
from roster.registry.watching import EventWatch

quiet_by_default()

__all__ = [
    "CapabilitySummary",
    "Condition",
    "Connecting",
    "EventType",
    "EventWatch",
    "Holder",
    "Informer",
    "Mismatch",
    "NodeEvent",
    "NodeRecord",
    "NodeStatus",
    "Registration",
    "Registry",
]
