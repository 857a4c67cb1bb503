"""Commands whose caller and node are both gone: the broker hands them to us, and somebody should do them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from roster.bus import Message
from roster.errors import CallError, Code, Outcome, RosterError
from roster.orchestrator.keyed import KeyedCall

if TYPE_CHECKING:
    from roster.orchestrator.orchestrator import Orchestrator

logger = logging.getLogger("roster.orchestrator")

_TIMEOUT = 30.0
# It is held at the broker for as long as this takes, which must stay well below the broker's `consumer_timeout`.
_LONGEST = 600.0


class Orphans:
    """Sends orphans on as their capability allows, else buries them.

    What surely had not begun goes to another node. What may have begun does so, too, unless its capability says
    `idempotent: false`: nobody is left who could be told that it is not known. The result is nobody's; with an idempotency
    key the node keeps it for the caller that comes back and repeats its call.
    """

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator

    async def see_to(self, message: Message, outcome: Outcome) -> None:
        """Have an orphan done, or bury it; return when that has happened.

        Raises:
            BusUnavailableError: it could not even be buried.
        """
        capability, params = message.data.get("action"), message.data.get("params", {})
        if not isinstance(capability, str) or not isinstance(params, dict):
            await self._bury(message, "its caller is gone, and it is no command to a capability")
        elif outcome == "unknown" and self._must_not_run_twice(capability):
            await self._bury(
                message,
                f"its caller is gone, its node as well; {capability} may have begun and must not run twice",
            )
        else:
            await self._send_on(message, capability, params)

    async def _send_on(self, message: Message, capability: str, params: Mapping[str, Any]) -> None:
        timeout = min(_TIMEOUT if message.timeout is None else message.timeout, _LONGEST)
        try:
            call = await self._orchestrator.prepare(
                capability, params, timeout=timeout, priority=message.priority
            )
            if message.key:
                call.keyed = KeyedCall(call, message.key, message.source)
            await call.run()
        except CallError as error:
            if error.code is Code.ABORTED:
                return  # it has struck too many nodes, and is buried already
            await self._bury(
                message, f"its caller is gone, and its node; sent on, it failed: {error.summary}"
            )
        except RosterError as error:
            await self._bury(message, f"its caller is gone, and its node; it could not be sent on: {error}")
        else:
            logger.info(
                "%s, whose caller and node are gone, was done by %s",
                capability,
                call.attempts[-1].node,
                extra={"capability": capability, "command": message.id},
            )

    def _must_not_run_twice(self, capability: str) -> bool:
        team = self._orchestrator.team
        return any(
            team.contracts.of(node, capability).idempotent is False for node in team.nodes_with(capability)
        )

    async def _bury(self, message: Message, reason: str) -> None:
        logger.warning("%s", reason, extra={"command": message.id})
        await self._orchestrator.bus.bury(message, reason)
