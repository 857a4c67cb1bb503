"""The same work by FastStream's request and reply over RabbitMQ."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from faststream import FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from peers.programs.common import CLIENTS, QUEUE, Answer, Notes, call_as_told, main

_QUEUE = RabbitQueue(QUEUE, durable=True)


def agent(notes: Notes, name: str, url: str, capacity: int) -> None:
    """Serve until SIGTERM."""
    broker = RabbitBroker(url, default_channel=Channel(prefetch_count=capacity), logger=None)
    app = FastStream(broker)

    @broker.subscriber(_QUEUE)
    async def work(command: str, seconds: float, text: str) -> Answer:
        notes.effect("start", command, name)
        if seconds:
            await asyncio.sleep(seconds)
        notes.effect("end", command, name)
        return {"command": command, "node": name, "text": text}

    @app.after_startup
    async def up() -> None:
        notes.write("up", node=name)

    asyncio.run(app.run())


def caller(notes: Notes, url: str) -> None:
    """Send what the input asks for, by several brokers: one lets one request wait at a time."""

    async def send() -> None:
        free: asyncio.LifoQueue[RabbitBroker] = asyncio.LifoQueue()
        for _ in range(CLIENTS):
            broker = RabbitBroker(url, logger=None)
            await broker.start()
            free.put_nowait(broker)

        async def call(sent: Answer, timeout: float) -> Any:
            # Its timeout begins when it has the lock of its broker.
            async with asyncio.timeout(timeout):
                broker = await free.get()
                try:
                    answer = await broker.request(sent, _QUEUE, timeout=timeout)
                finally:
                    free.put_nowait(broker)
            return json.loads(answer.body)

        await call_as_told(notes, call)

    asyncio.run(send())


if __name__ == "__main__":
    main(agent, caller)
