"""The bus: how to reach a node."""

from __future__ import annotations

from roster._logs import quiet_by_default
from roster.bus.base import Buried, Bus, Consumer, Delivery, Exchange, Subscription
from roster.bus.engines import open_bus
from roster.bus.events import Events, Published
from roster.bus.message import MAX_MESSAGE_BYTES, Kind, Load, Message, error_from
from roster.bus.mindbus import Answer, MindBus

quiet_by_default()

__all__ = [
    "MAX_MESSAGE_BYTES",
    "Answer",
    "Buried",
    "Bus",
    "Consumer",
    "Delivery",
    "Events",
    "Exchange",
    "Kind",
    "Load",
    "Message",
    "MindBus",
    "Published",
    "Subscription",
    "error_from",
    "open_bus",
]
