"""The local bus alone, between two processes: what a command and its answer cost without the layers above."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import tempfile
import time
from multiprocessing.connection import Connection

from roster.bus import Delivery, Message, open_bus

NAME = "local bus"
RUNS = 5
SEQUENTIAL_CALLS = 2_000
PARALLEL_CALLS = 20_000
IN_FLIGHT = 64


def run() -> list[tuple[str, str]]:
    """Return rows of what was measured and the figure with its unit; medians of several runs."""
    with tempfile.TemporaryDirectory(prefix="roster-bench-") as directory:
        url = f"local://{directory}"
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(url, theirs), daemon=True)
        process.start()
        try:
            if not ours.poll(30):
                raise RuntimeError("the serving process did not start within 30 s")
            p50s, p99s, rates = asyncio.run(_measure(url))
        finally:
            ours.send("stop")
            process.join(10)
            if process.is_alive():
                process.kill()
    return [
        ("bare local bus, one after the other, p50", f"{statistics.median(p50s) * 1e3:.3f} ms"),
        ("bare local bus, one after the other, p99", f"{statistics.median(p99s) * 1e3:.3f} ms"),
        (f"bare local bus, {IN_FLIGHT} in flight", f"{statistics.median(rates):,.0f} commands/s"),
    ]


def _serve(url: str, parent: Connection) -> None:
    async def main() -> None:
        async with open_bus(url) as bus:

            def on_delivery(delivery: Delivery) -> None:
                delivery.start()
                consumer.flush()
                delivery.reply(Message.result_for(delivery.message, {"ok": True}, source="/ai-team/bench"))

            consumer = await bus.serve("bench", on_delivery)
            parent.send(os.getpid())
            await asyncio.get_running_loop().run_in_executor(None, parent.recv)

    asyncio.run(main())


def _command() -> Message:
    params = {"topic": "bees", "style": "plain"}
    return Message.command("write_article", params, source="/ai-team/caller", timeout=30)


async def _measure(url: str) -> tuple[list[float], list[float], list[float]]:
    p50s, p99s, rates = [], [], []
    async with open_bus(url) as bus:

        async def call() -> None:
            exchange = await bus.send("bench", _command())
            await exchange.answer

        async def worker(count: int) -> None:
            for _ in range(count):
                await call()

        await worker(200)  # warm up
        for _ in range(RUNS):
            times = []
            for _ in range(SEQUENTIAL_CALLS):
                began = time.perf_counter()
                await call()
                times.append(time.perf_counter() - began)
            times.sort()
            p50s.append(times[len(times) // 2])
            p99s.append(times[len(times) * 99 // 100])
            began = time.perf_counter()
            await asyncio.gather(*(worker(PARALLEL_CALLS // IN_FLIGHT) for _ in range(IN_FLIGHT)))
            rates.append(PARALLEL_CALLS / (time.perf_counter() - began))
    return p50s, p99s, rates


if __name__ == "__main__":
    for what, figure in run():
        print(f"{what:50} {figure}")
