"""The same work by Nameko's RPC over RabbitMQ, on greenlets."""

from __future__ import annotations

import eventlet

eventlet.monkey_patch()

import signal  # noqa: E402 - what is imported before the patch stays as it was
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import eventlet.event  # noqa: E402
import eventlet.tpool  # noqa: E402
from nameko import config  # noqa: E402
from nameko.rpc import ServiceRpc, rpc  # noqa: E402
from nameko.runners import ServiceRunner  # noqa: E402
from nameko.testing.services import once  # noqa: E402

from peers.programs.common import QUEUE, Answer, Notes, call_blocking, loads, main  # noqa: E402

# Its client takes any number of calls at a time; so many are waited for at most.
_CALLS = 5000
# Seconds.
_LISTENS_AFTER = 2.0


def agent(notes: Notes, name: str, url: str, capacity: int) -> None:
    """Serve until SIGTERM."""
    config.setup({"AMQP_URI": url, "max_workers": capacity, "PREFETCH_COUNT": capacity})

    class Worker:
        name = QUEUE

        @rpc
        def work(self, command: str, seconds: float, text: str) -> Answer:
            notes.effect("start", command, name)
            if seconds:
                time.sleep(seconds)
            notes.effect("end", command, name)
            return {"command": command, "node": name, "text": text}

    runner = ServiceRunner()
    runner.add_service(Worker)
    runner.start()
    notes.write("up", node=name)
    signal.signal(signal.SIGTERM, lambda *_: eventlet.spawn_n(runner.stop))
    runner.wait()


class _Greenlets:
    """A pool of greenlets that looks like one of threads."""

    def __init__(self) -> None:
        self._pool = eventlet.GreenPool(_CALLS)

    def submit(self, function: Callable[..., None], /, *arguments: Any) -> None:
        self._pool.spawn_n(function, *arguments)


def caller(notes: Notes, url: str) -> None:
    """Send what the input asks for, from within a service: that has one client for all of its greenlets."""
    config.setup({"AMQP_URI": url})

    class Caller:
        name = "caller"
        service = ServiceRpc(QUEUE)

        @once
        def send(self) -> None:
            def call(sent: Answer, timeout: float) -> Any:
                with eventlet.Timeout(timeout, TimeoutError(f"no answer within {timeout:g} s")):
                    return self.service.work(**sent)

            # A call made before its listener for answers has a queue is one whose answer is lost, and that ends the service.
            time.sleep(_LISTENS_AFTER)
            greenlets, asked = _Greenlets(), loads()
            notes.write("ready")
            while (load := eventlet.tpool.execute(next, asked, None)) is not None:
                call_blocking(notes, load, call, greenlets)
            done.send()

    done = eventlet.event.Event()
    runner = ServiceRunner()
    runner.add_service(Caller)
    runner.start()
    done.wait()
    runner.stop()


if __name__ == "__main__":
    main(agent, caller)
