"""The same work by Roster, its registry where the environment says (`ROSTER_REGISTRY`)."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from peers.programs.common import QUEUE, Answer, Notes, call_as_told, main
from roster import Node, Orchestrator


def agent(notes: Notes, name: str, url: str, capacity: int) -> None:
    """Serve until SIGTERM."""
    node = Node(
        {
            "apiVersion": "ai-team.dev/v1",
            "kind": "NodePassport",
            "metadata": {"name": name},
            "spec": {
                "type": "agent",
                "version": "1.0.0",
                "capabilities": [
                    {
                        "name": QUEUE,
                        # As the others' work: what was in the hands of one that died is done again.
                        "idempotent": True,
                        "input_schema": {"command": "string", "seconds": "number", "text": "string"},
                        "output_schema": {"command": "string", "node": "string", "text": "string"},
                    }
                ],
                "resources": {"max_concurrent_tasks": capacity},
            },
        },
        bus_url=url,
    )

    @node.capability(QUEUE)
    async def work(command: str, seconds: float, text: str) -> Answer:
        notes.effect("start", command, name)
        if seconds:
            await asyncio.sleep(seconds)
        notes.effect("end", command, name)
        return {"command": command, "node": name, "text": text}

    async def serve() -> None:
        leaving = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.set)
        async with node:
            notes.write("up", node=name)
            await leaving.wait()

    asyncio.run(serve())


def caller(notes: Notes, url: str) -> None:
    """Send what the input asks for."""

    async def send() -> None:
        async with Orchestrator.connect(bus_url=url) as orchestrator:

            async def call(sent: Answer, timeout: float) -> Any:
                return await orchestrator.call(QUEUE, sent, timeout=timeout)

            await orchestrator.start()
            await call_as_told(notes, call)

    asyncio.run(send())


if __name__ == "__main__":
    main(agent, caller)
