"""The same work by Celery: a prefork worker that acknowledges late, and results by RabbitMQ."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from celery import Celery
from celery.signals import worker_ready

from peers.programs.common import CLIENTS, QUEUE, Answer, Notes, call_blocking, loads, main


def _app(url: str) -> Celery:
    app = Celery(QUEUE, broker=url, backend="rpc://")
    app.conf.update(
        # What a worker dies with is given to another.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        task_default_queue=QUEUE,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
    )
    return app


def agent(notes: Notes, name: str, url: str, capacity: int) -> None:
    """Serve until SIGTERM."""
    app = _app(url)

    @app.task(name="work")
    def work(command: str, seconds: float, text: str) -> Answer:
        notes.effect("start", command, name)
        if seconds:
            time.sleep(seconds)
        notes.effect("end", command, name)
        return {"command": command, "node": name, "text": text}

    @worker_ready.connect
    def up(**_: Any) -> None:
        notes.write("up", node=name)

    logging.disable(logging.INFO)
    # Gossip and mingling are of no use to this work, and cost time at the start.
    flags = ["--without-gossip", "--without-mingle", "--pool=prefork", f"--concurrency={capacity}"]
    app.worker_main(["worker", f"--hostname={name}@roster", "--loglevel=WARNING", *flags])


def caller(notes: Notes, url: str) -> None:
    """Send what the input asks for, on threads: waiting for a result blocks one."""
    app = _app(url)
    work = app.signature("work")

    def call(sent: Answer, timeout: float) -> Any:
        return work.clone(kwargs=sent).apply_async().get(timeout=timeout)

    # The same threads all the time: a new thread with the number of an old one would have to share its queue for results.
    with ThreadPoolExecutor(CLIENTS) as threads:
        notes.write("ready")
        for load in loads():
            call_blocking(notes, load, call, threads)


if __name__ == "__main__":
    main(agent, caller)
