"""Two hundred processes on one registry: what they cost, how fast they hear, whom a mass death takes, a full disk."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from chaos.crowd import NEWS
from chaos.disk import Disk, small_disk
from chaos.report import Options, Report
from roster import Registry
from roster._clock import boottime
from roster.errors import StoreError
from roster.store import open_store

NUMBER, WATCHERS = 200, 20
TTL = 20.0
IDLE = 15.0
CHANGES = 200


class Crowd:
    """The processes, and what they have said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pids: dict[int, int] = {}
        self.words: dict[str, list[str]] = {}
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            word, rest = line.decode().strip().split(" ", 1)
            self.words.setdefault(word, []).append(rest)
            if word == "child":
                number, pid = rest.split()
                self.pids[int(number)] = int(pid)
            self._changed.set()

    def said(self, word: str) -> int:
        """Return how often a word was said."""
        return len(self.words.get(word, ()))

    async def until(self, condition: Callable[[], bool], deadline: float = 60.0) -> None:
        """Wait until a condition on what was said holds."""
        async with asyncio.timeout(deadline):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def end(self) -> None:
        """End all of them."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await asyncio.wait_for(self._process.wait(), 30)
        await self._reader


@asynccontextmanager
async def _crowd(url: str, directory: Path) -> AsyncIterator[Crowd]:
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "chaos.crowd", str(NUMBER), str(WATCHERS), url, str(TTL), str(directory)],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    crowd = Crowd(process)
    try:
        yield crowd
    finally:
        await crowd.end()


def _cpu(pids: Iterable[int]) -> float:
    """Return the CPU seconds that these processes have used so far (proc(5), utime and stime)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def _live(registry: Registry) -> set[str]:
    return {node.name for node in await registry.find(namespace="crowd", healthy=True)}


async def _latencies(url: str, directory: Path) -> list[float]:
    """Write at a pace, and return the seconds from each write's begin to each watcher's hearing of it."""
    sent: dict[int, float] = {}
    async with open_store(url) as store:
        for number in range(CHANGES):
            began = boottime()
            sent[await store.put(NEWS, b"%d" % number)] = began
            await asyncio.sleep(0.02)

        def heard() -> list[float]:
            lines = [
                line.split() for file in directory.glob("heard-*") for line in file.read_text().splitlines()
            ]
            return [float(at) - sent[int(revision)] for revision, at in lines if int(revision) in sent]

        until = boottime() + 20
        while len(found := heard()) < CHANGES * WATCHERS and boottime() < until:
            await asyncio.sleep(0.1)
    return sorted(found)


async def _full_disk(report: Report, disk: Disk, url: str, crowd: Crowd, registry: Registry) -> None:
    """Fill it for more than a TTL, and free it."""
    before, lost = await _live(registry), crowd.said("lost")
    alive = [pid for number, pid in crowd.pids.items() if f"m{number}" in before]
    disk.fill([*alive, os.getpid()])
    said = ""
    try:
        async with open_store(url) as store:
            # A few writes may still fit into what the files had allocated before.
            for number in range(100):
                await store.put(f"{NEWS}/{number}", bytes(100_000))
    except StoreError as error:
        said = str(error)
    await asyncio.sleep(1.3 * TTL)
    after = await _live(registry)
    disk.free()
    async with open_store(url) as store:
        until = boottime() + 10
        while True:
            try:
                await store.put(NEWS, b"free")
                break
            except StoreError:
                if boottime() > until:
                    raise
                await asyncio.sleep(0.1)
    report.fact(
        "the disk was", "a full tmpfs" if disk.real else "a limit on the size of files (RLIMIT_FSIZE)"
    )
    report.fact("a write on the full disk says", said[:150] or "nothing")
    report.fact("nodes before / after 1.3 TTLs of a full disk", f"{len(before)} / {len(after)}")
    report.promise("a full disk costs nobody the lease", before == after and crowd.said("lost") == lost)
    report.promise(
        "a write on a full disk fails with its reason, and works again when there is room", bool(said)
    )


async def crowd(options: Options) -> Report:
    """200 processes on one registry: idle, watched, 100 killed with -9 at once, on a full disk."""
    registry = options.registry  # nobody calls anybody here
    report = Report()
    with tempfile.TemporaryDirectory(prefix="roster-") as directory:
        notes = Path(directory) / "notes"
        notes.mkdir()
        with small_disk(Path(directory) / "disk", megabytes=16) as disk:
            url = registry or f"sqlite://{disk.directory}/registry.db"
            began = boottime()
            async with _crowd(url, notes) as people, Registry.connect(url) as observer:
                await people.until(
                    lambda: people.said("ready") == NUMBER and people.said("listening") == WATCHERS
                )
                started = boottime() - began
                await observer.synced()
                everybody = await _live(observer)
                # The first beats after the start are the last of its work.
                await asyncio.sleep(TTL / 3)
                used, since = _cpu(people.pids.values()), boottime()
                await asyncio.sleep(IDLE)
                share = (_cpu(people.pids.values()) - used) / (boottime() - since)
                latencies = await _latencies(url, notes)
                victims = {number for number in people.pids if number % 2}
                killed = boottime()
                for number in victims:
                    os.kill(people.pids[number], signal.SIGKILL)
                survivors = {f"m{number}" for number in people.pids if number not in victims}
                until = killed + 3 * TTL
                while await _live(observer) != survivors and boottime() < until:
                    await asyncio.sleep(0.02)
                noticed = boottime() - killed
                await asyncio.sleep(max(0.0, killed + 1.2 * TTL - boottime()))
                left = await _live(observer)
                lost = people.said("lost")
                if registry is None:
                    await _full_disk(report, disk, url, people, observer)
                errors = people.words.get("error", [])
    quantile = {q: latencies[min(len(latencies) - 1, int(len(latencies) * q))] * 1e3 for q in (0.5, 0.99)}
    report.fact("processes, and until all had registered", f"{NUMBER}, {started:.1f} s")
    report.fact(f"CPU of the idle registry (TTL {TTL:g} s), of one core", f"{share:.1%}")
    report.fact("CPU with the default TTL of 30 s, by proportion", f"{share * TTL / 30:.1%}")
    report.fact(
        f"wake-up of {WATCHERS} watchers, p50 / p99 / worst",
        f"{quantile[0.5]:.1f} / {quantile[0.99]:.1f} / {latencies[-1] * 1e3:.1f} ms",
    )
    report.fact("100 killed at once: no longer found after", f"{noticed:.2f} s (TTL {TTL:g} s)")
    report.fact("lost their lease though they live", lost)
    for error in errors[:3]:
        report.fact("error", error)
    report.promise("all 200 are found", len(everybody) == NUMBER)
    report.promise("the idle registry takes under 5 % of a core", share < 0.05)
    report.promise(
        "every watcher hears of every change, p99 within 50 ms",
        len(latencies) == CHANGES * WATCHERS and quantile[0.99] <= 50,
    )
    report.promise("exactly the 100 that were killed go", left == survivors and lost == 0)
    report.promise("nobody had an error", not errors)
    return report
