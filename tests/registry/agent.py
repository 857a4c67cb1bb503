"""A process that registers one node and says, a JSON line each, what becomes of it: URL NAME TTL [RETENTION]."""

from __future__ import annotations

import asyncio
import json
import sys

from roster.errors import NameConflictError
from roster.registry import Registry


def say(event: str, **words: object) -> None:
    print(json.dumps({"event": event, **words}), flush=True)


async def main(url: str, name: str, ttl: float, retention: float = 60) -> None:
    document = {
        "apiVersion": "ai-team.dev/v1",
        "kind": "NodePassport",
        "metadata": {"name": name},
        "spec": {"capabilities": [{"name": "write"}]},
    }
    async with Registry.connect(url) as registry:
        try:
            registration = await registry.register(
                document, ttl=ttl, retention=retention, on_wait=lambda text: say("waiting", text=text)
            )
        except NameConflictError as error:
            say("conflict", text=str(error))
            return
        registration.on_lost = lambda why: say("lost", why=why)
        registration.on_registered = lambda uid: say("registered", uid=uid)
        say("registered", uid=registration.uid)
        try:
            await registration.wait_ended()
        except NameConflictError as error:
            say("displaced", text=str(error))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], *(float(word) for word in sys.argv[3:])))
