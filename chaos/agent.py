"""The agent of the fault runs: does a little work and writes each effect into the ledger.

Run as `python -m chaos.agent PASSPORT LEDGER`.
"""

from __future__ import annotations

import asyncio
import sys

from chaos.ledger import LedgerWriter
from roster import Context, Node


def main() -> None:
    """Serve until SIGTERM."""
    node = Node.load(sys.argv[1])
    ledger = LedgerWriter(sys.argv[2])

    async def work(command: str, seconds: float, context: Context) -> dict[str, str]:
        ledger.write(what="start", command=command, node=context.node)
        await asyncio.sleep(seconds)
        context.check()
        ledger.write(what="end", command=command, node=context.node)
        return {"command": command, "node": context.node}

    for capability in node.passport.capabilities:
        node.capability(capability.name)(work)
    node.run()


if __name__ == "__main__":
    main()
