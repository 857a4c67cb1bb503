"""An orchestrator that takes up runs, in a process of its own, to be killed, frozen and retired.

Run as `python -m chaos.runner FILE`. It notes `left` when it ends after a SIGTERM. Registry, bus and database are those of
the environment. An action that is named in CHAOS_DEADLY takes the whole process down, with kill -9, when it is to be done.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from chaos.ledger import LedgerWriter
from roster import Orchestrator


def _arm(orchestrator: Orchestrator, deadly: str) -> None:
    prepare = orchestrator.prepare

    async def armed(capability: str, *arguments: Any, **options: Any) -> Any:
        if capability == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return await prepare(capability, *arguments, **options)

    orchestrator.prepare = armed  # type: ignore[method-assign]  # the fault


async def _main(ledger: LedgerWriter) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with Orchestrator.connect() as orchestrator:
        if deadly := os.environ.get("CHAOS_DEADLY"):
            _arm(orchestrator, deadly)
        serving = asyncio.create_task(orchestrator.runs.serve())
        await asyncio.wait([serving, asyncio.create_task(over.wait())], return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    ledger.write(what="left")


if __name__ == "__main__":
    asyncio.run(_main(LedgerWriter(sys.argv[1])))
