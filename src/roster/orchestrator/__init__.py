"""The caller's side: find who can, route, send, wait, fail over."""

from roster.orchestrator.orchestrator import CallAnswer, NodeAnswer, Orchestrator, StreamEvent

__all__ = ["CallAnswer", "NodeAnswer", "Orchestrator", "StreamEvent"]
