"""Thousands of foreign and hostile documents in the registry of nodes that work."""

from __future__ import annotations

import asyncio
import json
import sys

from servers.helper import Helper

from chaos.helper import helper
from chaos.report import Options, Report
from chaos.rubbish import HUGE, Rubbish, rubbish, unspeakable
from chaos.stores import on_each, server_of
from chaos.verdict import Line
from roster import Registry
from roster._clock import boottime
from roster.store import Put, open_store

COUNT = 3000
PERMANENT = 10
TTL = 10.0
SYNC_WITHIN = 10.0
MORE_MEGABYTES = 150
_WRITERS = 4
_PORTION = 12


async def _copy(witness: Helper) -> Line:
    reports = len(witness.find("copy"))
    witness.say("report")
    async with asyncio.timeout(30):
        while len(copies := witness.find("copy")) == reports:
            await asyncio.sleep(0.02)
    return copies[-1]


async def _write(url: str, bad: list[Rubbish]) -> None:
    """Write the large ones each alone, of the others many at a time: flushing 3 000 writes to disk takes a minute."""
    portions = [bad[at : at + 1] for at in range(HUGE)] + [
        bad[at : at + _PORTION] for at in range(HUGE, len(bad), _PORTION)
    ]
    async with open_store(url) as store:
        left = iter(portions)

        async def some() -> None:
            for portion in left:
                await store.transact([], [Put(one.key, one.value) for one in portion])

        await asyncio.gather(*(some() for _ in range(_WRITERS)))


async def _doctor(url: str, directory: object) -> tuple[set[str], float]:
    """Return what `roster doctor` says, and the seconds that it took."""
    began = boottime()
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "roster", "doctor", "-o", "json", "--registry", url],
        *["--bus", f"local://{directory}/bus"],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), 60)
    except TimeoutError:
        process.kill()
        await process.wait()
        return set(), boottime() - began
    return {finding["what"] for finding in json.loads(said)["findings"]}, boottime() - began


async def hostile_keys(options: Options) -> Report:
    """3 000 foreign and hostile documents under the prefix while nodes work, on each store."""

    async def one(engine: str) -> Report:
        report = Report()
        async with (
            server_of(engine) as (server, directory),
            helper("chaos.witness", directory, "witness", server.url) as witness,
        ):
            url = server.url
            await witness.until("synced")
            async with helper("chaos.nodes", directory, "nodes", url, str(TTL), str(PERMANENT), "1") as nodes:
                names = {f"permanent-{number}" for number in range(PERMANENT)}
                for name in names:
                    await nodes.until("registered", name=name)
                before = await _copy(witness)
                bad = list(rubbish(COUNT))
                began = boottime()
                await _write(url, bad)
                written = boottime() - began
                odd = await asyncio.to_thread(unspeakable, server)
                wanted = {one.key for one in bad if one.quarantined}
                until = boottime() + 15
                after = await _copy(witness)
                while not wanted <= set(after["quarantined"]) and boottime() < until:
                    await asyncio.sleep(0.3)
                    after = await _copy(witness)
                aside = set(after["quarantined"])
                began = boottime()
                async with Registry.connect(url) as registry:
                    await registry.synced(60)
                    synced = boottime() - began
                    found = {node.name for node in await registry.find(namespace="chaos", state=_ALIVE)}
                    fresh = set(registry.quarantined)
                said, examined = await _doctor(url, directory)
                named = [
                    key for key in aside if any(f"the document {key} is quarantined" in one for one in said)
                ]
                # It names so many and counts the rest.
                rest = next((int(one.split()[0]) for one in said if "more like the last one" in one), 0)
                await asyncio.sleep(TTL / 3)
                changes = len(witness.find("event", type="ready"))
                heard = [line for line in witness.read() if line["what"] == "event"]
                dead = [
                    line["name"]
                    for line in heard
                    if line["name"] in names and line["type"] in ("offline", "removed", "unknown")
                ]
                lost = nodes.find("lost")
        report.fact(
            f"{COUNT} documents written in, and {odd} keys that only others write", f"{written:.1f} s"
        )
        report.fact("set aside / of those wanted", f"{len(aside)} / {len(aside & wanted)} of {len(wanted)}")
        report.fact("a newcomer's sync", f"{synced:.2f} s")
        report.fact("memory of a reader before / after", f"{before['megabytes']} / {after['megabytes']} MiB")
        report.fact("doctor took, and named", f"{examined:.1f} s, {len(named)} and {rest} more")
        report.fact("changes to ready heard", changes)
        report.promise(
            "nodes are found as before, none is called dead", names <= found and not dead and not lost
        )
        report.promise(
            "each bad key is set aside alone", wanted <= aside and not any("permanent" in k for k in aside)
        )
        report.promise("a newcomer sets the same aside", wanted <= fresh)
        report.promise("roster doctor shows them", len(named) >= 50 and len(named) + rest == len(aside))
        report.promise(f"a newcomer syncs within {SYNC_WITHIN:g} s", synced <= SYNC_WITHIN)
        more = after["megabytes"] - before["megabytes"]
        report.promise(f"a reader takes at most {MORE_MEGABYTES} MiB more", more <= MORE_MEGABYTES)
        return report

    return await on_each(options.stores, one)


_ALIVE = ("starting", "ready", "busy", "draining")
