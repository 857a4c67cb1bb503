"""Control signals that a node serves: its own, and those that the user has a function for."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from roster._loops import Hop
from roster.bus.base import Delivery
from roster.bus.failure import named
from roster.errors import Code
from roster.node.engine import Engine
from roster.node.runner import Runner

logger = logging.getLogger("roster.node")

Signal = Callable[[dict[str, Any]], Awaitable[Any] | Any]

OWN = frozenset(
    {"ping", "revoke", "recall", "room", "pause", "resume", "drain", "undrain", "stop", "shutdown"}
)
"""What a node serves itself; the first four are the engine's."""

TAKES_WORK = "TakesWork"
"""The condition that a node has while a signal keeps it from taking work."""


def heed(engine: Engine, signal: str, key: str) -> bool:
    """Do to what a node has in hand what `pause`, `resume`, `drain`, `undrain` and `stop` ask for; I/O loop.

    Args:
        engine: the node's.
        signal: its name.
        key: `namespace/name` of the node.

    Returns:
        Whether it was one of these.
    """
    if signal in ("pause", "drain"):
        engine.close_for(signal, "is paused" if signal == "pause" else "is draining")
        engine.hand_back_waiting()
    elif signal in ("resume", "undrain"):
        for reason in ("pause", "stop") if signal == "resume" else ("drain",):
            engine.open_for(reason)
    elif signal == "stop":
        engine.close_for("stop", "was told to stop")
        for work in engine.hands.everything():
            engine.give_back(work, f"{key} was told to stop")
    else:
        return False
    return True


def heeded(engine: Engine, signal: str, key: str) -> dict[str, Any]:
    """Return what confirms a signal to its sender: what the node is now."""
    return {
        "node": key,
        "uid": engine.uid,
        "signal": signal,
        "active_tasks": engine.hands.active,
        "reasons": list(engine.reasons),
    }


class Signals:
    """Serves control messages on the I/O loop, each confirmed to its sender when it has taken effect.

    - `pause`: finish what runs, hand back what waits, take nothing new, until `resume` or the end of the process; the
      condition `TakesWork` says so.
    - `stop`: the same, and what runs is cancelled; until `resume`.
    - `drain`: as `pause`, until `undrain`: what `Registry.drain` has marked is told so.
    - `shutdown`: leave in good order and end, as by SIGTERM.

    Args:
        key: `namespace/name` of the node.
        functions: the user's, by signal.
        runner: where the user's functions run.
        io_hop: the way back to the I/O loop.
        shutdown: ends the node in good order; returns False if it cannot, since its program runs it otherwise.
        show: shows a condition of the node, or takes it away.
        when_shown: calls a function when the registry has been told whether the node takes work.
    """

    def __init__(
        self,
        key: str,
        functions: Mapping[str, Signal],
        *,
        runner: Runner,
        io_hop: Hop,
        shutdown: Callable[[], bool],
        show: Callable[[str, Literal["False"] | None, str, str], None],
        when_shown: Callable[[Callable[[], None]], None],
    ) -> None:
        self.engine: Engine | None = None
        self._key = key
        self._functions = functions
        self._runner = runner
        self._io_hop = io_hop
        self._shutdown = shutdown
        self._show = show
        self._when_shown = when_shown

    def serve(self, delivery: Delivery) -> bool:
        """Serve a control message; return False if its signal is unknown. I/O loop."""
        engine = self.engine
        data = delivery.message.data
        name = str(data.get("signal"))
        if engine is None:
            return False
        if heed(engine, name, self._key):
            pass  # it has taken effect
        elif name == "shutdown":
            if not self._shutdown():
                engine.deny(
                    delivery,
                    f"{self._key} cannot end by a signal: its program runs it in a block of its own; end the program",
                    Code.FAILED_PRECONDITION,
                )
                return True
            engine.close_for("leaving", "is leaving")
        elif (function := self._functions.get(name)) is not None:
            self._runner.hop.post(self._begin, function, dict(data), delivery)
            return True
        else:
            return False
        sender = delivery.message.source or "somebody"
        logger.info("%s: signal %s of %s", self._key, name, sender, extra={"node": self._key})
        if name in ("pause", "stop"):
            self._show(
                TAKES_WORK, "False", "Paused" if name == "pause" else "Stopped", f"by a signal of {sender}"
            )
        elif name == "resume":
            self._show(TAKES_WORK, None, "", "")
        result = heeded(engine, name, self._key)
        if name == "shutdown":
            engine.confirm(delivery, result)  # whoever leaves may not come to it later
        else:
            self._when_shown(lambda: engine.confirm(delivery, result))
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
            self._io_hop.post(engine.deny, delivery, named(raised), Code.UNKNOWN)
        else:
            self._io_hop.post(
                engine.confirm, delivery, result if isinstance(result, dict) else {"node": self._key}
            )
