"""One of two processes that want the same name at the same moment.

Run as `python -m chaos.racer FILE URL TTL`. Told `race NAME` it registers, told `take NAME` it takes the name over, told
`leave NAME` it deregisters if it holds the name; it notes how each ended. It ends with its input.
"""

from __future__ import annotations

import asyncio
import sys

from chaos.ledger import LedgerWriter
from roster import Registry
from roster._clock import boottime
from roster.errors import RosterError
from roster.registry.registration import Registration


class Racer:
    """Registers names as it is told."""

    def __init__(self, registry: Registry, ttl: float, ledger: LedgerWriter) -> None:
        self._registry = registry
        self._ttl = ttl
        self._note = ledger.write
        self._held: dict[str, Registration] = {}

    async def obey(self, word: str, name: str) -> None:
        """Do one thing, and note how it ended."""
        if word == "leave":
            registration = self._held.pop(name, None)
            if registration is not None:
                await registration.deregister()
            self._note(what="left", name=name, state=registration.state if registration else "")
            return
        passport = {
            "apiVersion": "ai-team.dev/v1",
            "kind": "NodePassport",
            "metadata": {"name": name, "namespace": "chaos"},
            "spec": {"type": "agent", "version": "1.0.0", "capabilities": [{"name": "work"}]},
        }
        began = boottime()
        try:
            registration = await self._registry.register(passport, ttl=self._ttl, takeover=word == "take")
        except RosterError as error:
            self._note(
                what="outcome",
                name=name,
                uid="",
                why=type(error).__name__,
                text=str(error),
                seconds=boottime() - began,
            )
            return
        self._held[name] = registration
        registration.on_displaced = lambda error: self._note(what="displaced", name=name, why=str(error))
        self._note(
            what="outcome", name=name, uid=registration.uid, why="", text="", seconds=boottime() - began
        )


async def _main(ledger: LedgerWriter, url: str, ttl: float) -> None:
    async with Registry.connect(url) as registry:
        await registry.store.info()
        racer = Racer(registry, ttl, ledger)
        ledger.write(what="ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            word, name = line.split()
            await racer.obey(word, name)


if __name__ == "__main__":
    asyncio.run(_main(LedgerWriter(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
