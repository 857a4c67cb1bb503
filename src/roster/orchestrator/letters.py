"""Sends a dead letter again, and lets go of it when its result is there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from roster.bus import Message
from roster.bus.base import Buried, Bus
from roster.bus.message import Kind
from roster.errors import CallError, LetterNotFoundError, MessageError
from roster.orchestrator.keyed import KeyedCall

if TYPE_CHECKING:
    from roster.orchestrator.call import Call

logger = logging.getLogger("roster.orchestrator")


async def find(bus: Bus, letter: str) -> tuple[Buried, Message]:
    """Return what was buried under an id, the newest if there are several, and the command that it is.

    Raises:
        LetterNotFoundError: there is none.
        MessageError: it is no command.
    """
    found = [one for one in await bus.corpses() if one.id == letter]
    if not found:
        raise LetterNotFoundError(f"there is no dead letter {letter!r} on {bus.url}")
    message = found[-1].message
    if message is None or message.kind is not Kind.COMMAND:
        raise MessageError(
            f"the dead letter {letter!r} is no command: it can be looked at and dropped, not sent again"
        )
    return found[-1], message


async def revive(call: Call, letter: Buried, command: Message) -> Any:
    """Run a call that sends a buried command again, and return its result.

    Args:
        call: of the command.
        letter: what is removed then; others may have its id, and its command may have another.
        command: what was buried.

    Raises:
        CallError: as for any call; the letter stays.
    """
    bus = call.team.bus
    call.revived = command
    if command.key:
        call.keyed = KeyedCall(call, command.key, command.source or call.team.source)
    result = await call.run()
    try:
        await bus.drop_dead(
            lambda one: (one.id, one.buried_at, one.body) == (letter.id, letter.buried_at, letter.body)
        )
    except CallError as error:
        # The result is worth more than the tidiness.
        logger.warning("the dead letter %s has been answered, and could not be removed: %s", letter.id, error)
    return result
