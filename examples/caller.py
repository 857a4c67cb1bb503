"""A caller: it names a capability, never an agent."""

import asyncio

from roster import NoCapableNodesError, Orchestrator


async def main() -> None:
    async with Orchestrator.connect() as orchestrator:
        result = await orchestrator.call(
            "write_article", {"topic": "bees"}, selector="team=content", timeout=30
        )
        print(result["article"])

        async for event in orchestrator.stream("write_article", {"topic": "tides"}):
            print(event.node, event.type, event.data)

        try:
            await orchestrator.call("paint", {"subject": "bees"})
        except NoCapableNodesError as error:
            print(error)


asyncio.run(main())
