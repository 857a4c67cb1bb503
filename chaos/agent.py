"""The agent of the fault runs: each capability is a way to behave, and each effect goes into the ledger.

Run as `python -m chaos.agent PASSPORT LEDGER`. A capability that is none of `BEHAVIOURS` works as `work` does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from chaos.ledger import LedgerWriter
from roster import Context, Node, RemoteError

# How often code on a thread looks whether it should stop.
_LOOK = 0.01


class Behaviours:
    """What the agent can do. Every handler takes the command's name, for the ledger, and how long to work."""

    def __init__(self, ledger: LedgerWriter) -> None:
        self._note = ledger.write

    async def work(self, command: str, seconds: float, context: Context) -> dict[str, str]:
        """Wait, look whether to stop, and finish: an agent that behaves."""
        return await self._wait(command, seconds, context, look=True)

    async def eager(self, command: str, seconds: float, context: Context) -> dict[str, str]:
        """Finish right after waiting and never look: only a cancellation can keep it from its effect."""
        return await self._wait(command, seconds, context, look=False)

    async def _wait(self, command: str, seconds: float, context: Context, *, look: bool) -> dict[str, str]:
        self._note(what="start", command=command, node=context.node)
        try:
            await asyncio.sleep(seconds)
            if look:
                context.check()
        except BaseException:
            self._note(what="stopped", command=command, node=context.node)
            raise
        return self._end(command, context)

    def plain(self, command: str, seconds: float, context: Context) -> dict[str, str]:
        """The same on a thread, where nobody can interrupt it: it looks."""
        self._note(what="start", command=command, node=context.node)
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                time.sleep(_LOOK)
                context.check()
        except BaseException:
            self._note(what="stopped", command=command, node=context.node)
            raise
        return self._end(command, context)

    async def block(self, command: str, seconds: float, context: Context) -> dict[str, str]:
        """Block the event loop: the mistake that every author of async code makes once."""
        self._note(what="start", command=command, node=context.node)
        time.sleep(seconds)  # that is the fault
        return self._end(command, context)

    def stuck(self, command: str, seconds: float, context: Context) -> dict[str, str]:
        """Hang on a thread, where nobody can interrupt it, and not look."""
        self._note(what="start", command=command, node=context.node)
        time.sleep(seconds)
        return self._end(command, context)

    async def deadly(self, command: str, seconds: float, context: Context) -> dict[str, str]:
        """Take the whole process down, with kill -9."""
        self._note(what="start", command=command, node=context.node)
        await asyncio.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)
        return self._end(command, context)

    async def failing(self, command: str, seconds: float, context: Context) -> dict[str, str]:
        """Fail, and say that another try makes sense."""
        self._note(what="start", command=command, node=context.node)
        await asyncio.sleep(seconds)
        raise RemoteError(f"{context.node} is out of order", retryable=True)

    async def interrupted(self, command: str, seconds: float, context: Context) -> dict[str, str]:
        """Raise what Ctrl-C raises, which ends the loop."""
        self._note(what="start", command=command, node=context.node)
        await asyncio.sleep(seconds)
        raise KeyboardInterrupt

    def _end(self, command: str, context: Context) -> dict[str, str]:
        self._note(what="end", command=command, node=context.node)
        return {"command": command, "node": context.node}


BEHAVIOURS = ("work", "eager", "plain", "block", "stuck", "deadly", "failing", "interrupted")


def main() -> None:
    """Serve until SIGTERM."""
    node = Node.load(sys.argv[1])
    behaviours = Behaviours(LedgerWriter(sys.argv[2]))
    # An agent may be out of order for everything that it offers.
    always = os.environ.get("CHAOS_BEHAVIOUR")
    for capability in node.passport.capabilities:
        name = always or (capability.name if capability.name in BEHAVIOURS else "work")
        handler: Callable[..., Any] = getattr(behaviours, name)
        node.capability(capability.name)(handler)
    node.run()


if __name__ == "__main__":
    main()
