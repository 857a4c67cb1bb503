"""Control signals that a node serves: its own, and those that the user has a function for."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from roster._loops import Hop
from roster.bus.base import Delivery
from roster.errors import Code
from roster.node.engine import Engine
from roster.node.runner import Runner

logger = logging.getLogger("roster.node")

Signal = Callable[[dict[str, Any]], Awaitable[Any] | Any]

OWN = frozenset({"ping", "revoke", "recall", "pause", "resume", "drain", "undrain", "stop", "shutdown"})
"""What a node serves itself; the first three are the engine's."""


class Signals:
    """Serves control messages on the I/O loop, each confirmed to its sender when it has taken effect.

    - `pause`, `drain`: finish what runs, hand back what waits, take nothing new, until `resume` or `undrain`.
    - `stop`: the same, and what runs is cancelled; until `resume`.
    - `shutdown`: leave in good order and end.

    Args:
        key: `namespace/name` of the node.
        functions: the user's, by signal.
        runner: where the user's functions run.
        io_hop: the way back to the I/O loop.
        shutdown: ends the node in good order.
    """

    def __init__(
        self,
        key: str,
        functions: Mapping[str, Signal],
        *,
        runner: Runner,
        io_hop: Hop,
        shutdown: Callable[[], None],
    ) -> None:
        self.engine: Engine | None = None
        self._key = key
        self._functions = functions
        self._runner = runner
        self._io_hop = io_hop
        self._shutdown = shutdown

    def serve(self, delivery: Delivery) -> bool:
        """Serve a control message; return False if its signal is unknown. I/O loop."""
        engine = self.engine
        data = delivery.message.data
        name = str(data.get("signal"))
        if engine is None:
            return False
        if name in ("pause", "drain"):
            engine.close_for(name, "is paused" if name == "pause" else "is draining")
            engine.hand_back_waiting()
        elif name in ("resume", "undrain"):
            for reason in ("pause", "drain", "stop") if name == "resume" else ("drain",):
                engine.open_for(reason)
        elif name == "stop":
            engine.close_for("stop", "was told to stop")
            for work in engine.hands.everything():
                engine.give_back(work, f"{self._key} was told to stop")
        elif name == "shutdown":
            engine.close_for("leaving", "is leaving")
            self._shutdown()
        elif (function := self._functions.get(name)) is not None:
            self._runner.hop.post(self._begin, function, dict(data), delivery)
            return True
        else:
            return False
        logger.info("%s: signal %s", self._key, name, extra={"node": self._key})
        active, reasons = engine.hands.active, list(engine.reasons)
        engine.confirm(
            delivery, {"node": self._key, "signal": name, "active_tasks": active, "reasons": reasons}
        )
        return True

    def _begin(self, function: Signal, data: dict[str, Any], delivery: Delivery) -> None:
        self._runner.start(self._run(function, data, delivery))

    async def _run(self, function: Signal, data: dict[str, Any], delivery: Delivery) -> None:
        engine = self.engine
        if engine is None:
            return
        try:
            result = function(data)
            if isinstance(result, Awaitable):
                result = await result
        except Exception as raised:  # noqa: BLE001 - whatever it raises is the sender's to hear
            self._io_hop.post(engine.deny, delivery, f"{type(raised).__name__}: {raised}", Code.UNKNOWN)
        else:
            self._io_hop.post(
                engine.confirm, delivery, result if isinstance(result, dict) else {"node": self._key}
            )
