"""Calls the user's code so that what it raises ends nothing but itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger("roster.bus")


def call_handler(what: str, handler: Callable[..., object], *args: Any) -> bool:
    """Call the user's code and return whether it went well; what it raises is logged, `what` says where."""
    try:
        handler(*args)
    except Exception:
        log.exception("the handler of %s raised", what)
        return False
    return True
