"""The agent's side: serve capabilities, report load, leave in good order."""

from roster.node.context import Context, current
from roster.node.node import Node

__all__ = ["Context", "Node", "current"]
