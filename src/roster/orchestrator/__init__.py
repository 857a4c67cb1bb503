"""The caller's side: find who can, route, send, wait, fail over."""

from roster.orchestrator.answers import CallAnswer, NodeAnswer, StreamEvent
from roster.orchestrator.orchestrator import Orchestrator

__all__ = ["CallAnswer", "NodeAnswer", "Orchestrator", "StreamEvent"]
