"""Request and reply over aio-pika, written by hand: direct reply-to, and nothing for when things go wrong.

With `CONFIRMS=0` no publish waits for the broker's word that it has the message.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from peers.programs.common import QUEUE, Answer, Notes, call_as_told, main

_CONFIRMS = os.environ.get("CONFIRMS") != "0"


def agent(notes: Notes, name: str, url: str, capacity: int) -> None:
    """Serve until SIGTERM."""

    async def serve() -> None:
        connection = await aio_pika.connect_robust(url)
        channel = await connection.channel(publisher_confirms=_CONFIRMS)
        await channel.set_qos(prefetch_count=capacity)
        queue = await channel.declare_queue(QUEUE, durable=True)

        async def work(message: AbstractIncomingMessage) -> None:
            async with message.process(requeue=True):
                asked = json.loads(message.body)
                notes.effect("start", asked["command"], name)
                if asked["seconds"]:
                    await asyncio.sleep(asked["seconds"])
                notes.effect("end", asked["command"], name)
                answer = {"command": asked["command"], "node": name, "text": asked["text"]}
                await channel.default_exchange.publish(
                    aio_pika.Message(json.dumps(answer).encode(), correlation_id=message.correlation_id),
                    routing_key=message.reply_to or "",
                    mandatory=False,
                )

        await queue.consume(work)
        notes.write("up", node=name)
        await asyncio.Event().wait()

    asyncio.run(serve())


def caller(notes: Notes, url: str) -> None:
    """Send what the input asks for."""

    async def send() -> None:
        connection = await aio_pika.connect_robust(url)
        channel = await connection.channel(publisher_confirms=_CONFIRMS)
        waiting: dict[str, asyncio.Future[Any]] = {}

        async def on_answer(message: AbstractIncomingMessage) -> None:
            future = waiting.pop(message.correlation_id or "", None)
            if future is not None and not future.done():
                future.set_result(json.loads(message.body))

        replies = await channel.declare_queue("amq.rabbitmq.reply-to", passive=True)
        await replies.consume(on_answer, no_ack=True)

        async def call(sent: Answer, timeout: float) -> Any:
            key = uuid4().hex
            waiting[key] = asyncio.get_running_loop().create_future()
            message = aio_pika.Message(
                json.dumps(sent).encode(), correlation_id=key, reply_to="amq.rabbitmq.reply-to"
            )
            async with asyncio.timeout(timeout):
                await channel.default_exchange.publish(message, routing_key=QUEUE)
                return await waiting[key]

        await call_as_told(notes, call)

    asyncio.run(send())


if __name__ == "__main__":
    main(agent, caller)
