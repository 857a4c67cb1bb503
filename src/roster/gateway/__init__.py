"""The team over HTTP: an API, live events, metrics, and a door for nodes in any language."""

from __future__ import annotations

from roster._logs import quiet_by_default
from roster.gateway.core import Gateway
from roster.gateway.server import serve
from roster.gateway.settings import Limits, Settings

quiet_by_default()

__all__ = ["Gateway", "Limits", "Settings", "serve"]
