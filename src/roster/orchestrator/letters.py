"""Sends a dead letter again, and lets go of it when its result is there."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from roster.bus import Message
from roster.bus.base import Bus, Held
from roster.bus.message import Kind
from roster.errors import CallError, LetterNotFoundError, MessageError
from roster.orchestrator.keyed import KeyedCall

if TYPE_CHECKING:
    from roster.orchestrator.call import Call

logger = logging.getLogger("roster.orchestrator")


@asynccontextmanager
async def in_hand(bus: Bus, letter: str) -> AsyncIterator[tuple[Held, Message]]:
    """Take a dead letter into hand, the newest if there are several, that nobody else sends it again meanwhile.

    Raises:
        LetterNotFoundError: there is none, or somebody else has it in hand.
        MessageError: it is no command.
        BusUnavailableError: it cannot be read.
    """
    async with bus.hold_dead(letter) as held:
        if held is None:
            raise LetterNotFoundError(
                f"there is no dead letter {letter!r} on {bus.url}, or somebody is sending it again just now"
            )
        message = held.letter.message
        if message is None or message.kind is not Kind.COMMAND:
            raise MessageError(
                f"the dead letter {letter!r} is no command: it can be looked at and dropped, not sent again"
            )
        yield held, message


async def revive(call: Call, held: Held, command: Message) -> Any:
    """Run a call that sends a buried command again, and return its result.

    Args:
        call: of the command.
        held: what is removed then; others may have its id, and its command may have another.
        command: what was buried.

    Raises:
        CallError: as for any call; the letter stays.
    """
    call.revived = command
    if command.key:
        call.keyed = KeyedCall(call, command.key, command.source or call.team.source)
    result = await call.run()
    try:
        await held.drop()
    except CallError as error:
        # The result is worth more than the tidiness.
        logger.warning(
            "the dead letter %s has been answered, and could not be removed: %s", held.letter.id, error
        )
    return result
