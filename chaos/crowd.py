"""Two hundred cheap processes on one registry: a parent that forks them after everything is imported.

Run as `python -m chaos.crowd NUMBER WATCHERS REGISTRY_URL TTL DIRECTORY`; it says one line a child, and ends them when its
input ends. Each child registers one node. The first few watch one key, too, and note when they hear of each change.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from roster import Registry
from roster._clock import boottime
from roster.errors import RosterError
from roster.store import open_store

# Imported before the fork: an engine is imported at its first use, and two hundred imports take their time.
from roster.store.sqlite import SqliteStore as SqliteStore

NEWS = "/ai-team-chaos/news"


def _say(*words: object) -> None:
    """One write a line: two hundred processes share this output."""
    os.write(1, (" ".join(str(word) for word in words) + "\n").encode())


async def _member(number: int, url: str, ttl: float) -> None:
    document = {
        "apiVersion": "ai-team.dev/v1",
        "kind": "NodePassport",
        "metadata": {"name": f"m{number}", "namespace": "crowd"},
        "spec": {"type": "agent", "version": "1.0.0", "capabilities": [{"name": "work"}]},
    }
    async with Registry.connect(url) as registry:
        registration = await registry.register(document, ttl=ttl)
        registration.on_lost = lambda why: _say("lost", number, why.replace("\n", " "))
        _say("ready", number)
        await registration.wait_ended()


async def _listen(number: int, url: str, directory: Path) -> None:
    async with open_store(url) as store:
        revision = (await store.info()).revision
        with (directory / f"heard-{number}").open("a", buffering=1) as heard:
            async with store.watch(NEWS, from_revision=revision + 1) as batches:
                _say("listening", number)
                async for batch in batches:
                    now = boottime()
                    heard.writelines(f"{change.revision} {now:.6f}\n" for change in batch.changes)


async def _life(number: int, watches: bool, url: str, ttl: float, directory: Path) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_member(number, url, ttl))
        if watches:
            group.create_task(_listen(number, url, directory))


def main() -> None:
    """Fork the crowd and stay until the input ends."""
    number, watchers, url = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    ttl, directory = float(sys.argv[4]), Path(sys.argv[5])
    children = []
    for index in range(number):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            try:
                asyncio.run(_life(index, index < watchers, url, ttl, directory))
            except (RosterError, ExceptionGroup) as error:
                _say("error", index, str(error).replace("\n", " "))
            finally:
                os._exit(1)
        children.append(child)
        _say("child", index, child)
    sys.stdin.read()
    for child in children:
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it was killed by the scenario and is reaped below
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
