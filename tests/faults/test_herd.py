"""Many who want the same thing at one moment: they do not all come at once, and overload makes nobody do more."""

from __future__ import annotations

from contextlib import AsyncExitStack

from tests.conftest import eventually, passport

from roster import Registry
from roster._clock import boottime
from roster.registry import Registration
from roster.store import open_store


async def test_those_who_lose_their_leases_together_register_again_one_after_the_other(
    memory_urls: tuple[str, str],
) -> None:
    """Thirty lose their leases in one instant; each waits for a random share of a second (TTL of 10 s and more)."""
    back: list[float] = []
    async with AsyncExitStack() as stack:
        held: list[Registration] = []
        for number in range(30):
            registry = await stack.enter_async_context(Registry.connect(memory_urls[0]))
            registration = await registry.register(passport(f"n{number}", "work"), ttl=20)
            registration.on_registered = lambda _: back.append(boottime())
            held.append(registration)
        began = boottime()
        for registration in held:
            registration.lose("all leases were lost at once")
        await eventually(lambda: len(back) == 30)
    delays = sorted(at - began for at in back)
    # Thirty uniform draws from a second lie within 0.4 s of each other once in ten thousand million runs.
    assert delays[-1] - delays[0] > 0.4
    assert delays[-1] < 8


async def test_a_flood_of_changes_is_followed_and_never_answered_with_listing_again(
    memory_urls: tuple[str, str],
) -> None:
    async with (
        Registry.connect(memory_urls[0]) as registry,
        Registry.connect(memory_urls[0]) as reader,
        open_store(memory_urls[0]) as store,
    ):
        await registry.register(passport("n", "work"), ttl=20)
        await reader.synced()
        document = b'{"apiVersion": "ai-team.dev/v1", "kind": "NodePassport", "metadata": {"name": "f%d"}, "spec": {}}'
        for number in range(3000):
            await store.put(
                f"/ai-team/nodes/default/f{number % 50}", document % (number % 50) + b" " * number
            )
        last = (await store.info()).revision
        await eventually(lambda: reader.informer.catalog.revision >= last)
        assert reader.informer.listings == 1
