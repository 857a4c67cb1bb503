"""`doctor` finds each thing that is broken, says what to do, and writes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.cli.conftest import Result, editor, roster
from tests.conftest import passport
from tests.engines import own_bus

from roster import Message, Node, __version__
from roster._loops import LoopThread
from roster.bus import open_bus
from roster.bus.sockets import queue_stem, socket_directory
from roster.cli.doctor import environment, machine
from roster.cli.doctor import store as store_check
from roster.cli.doctor.finding import Finding
from roster.registry.keys import node_key
from roster.store import Store, open_store
from roster.store.sqlite import inspect
from roster.store.sqlite.inspect import FileFacts


class Place:
    """A registry file and a bus of one test, with a loop where its nodes live."""

    def __init__(self, directory: Path, thread: LoopThread) -> None:
        self.directory = directory
        self.registry = directory / "registry.db"
        self.registry_url = f"sqlite://{self.registry}"
        self.bus_url = f"local://{directory}/bus"
        self.thread = thread
        self.nodes: list[Node] = []

    @property
    def sockets(self) -> Path:
        return socket_directory(self.directory / "bus")

    def start(self, name: str = "editor-001") -> Node:
        node = editor(name, registry_url=self.registry_url, bus_url=self.bus_url)
        self.thread.run(node.start(), timeout=10)
        self.nodes.append(node)
        return node

    def with_store(self, work: Any) -> Any:
        async def do() -> Any:
            async with open_store(self.registry_url) as store:
                return await work(store)

        return self.thread.run(do(), timeout=10)

    def put(self, key: str, document: Any, lease: str | None = None) -> None:
        value = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.with_store(lambda store: store.put(key, value, lease=lease))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    for name in list(os.environ):
        if name.startswith(("ROSTER_", "ETCD_", "RABBITMQ_")):
            monkeypatch.delenv(name)
    thread = LoopThread("doctor's patients").start()
    made = Place(tmp_path, thread)
    monkeypatch.setenv("ROSTER_REGISTRY", made.registry_url)
    monkeypatch.setenv("ROSTER_BUS", made.bus_url)
    monkeypatch.setenv("ROSTER_STATE_DIR", str(tmp_path / "state"))
    yield made
    for node in made.nodes:
        thread.run(node.stop(grace=0.1), timeout=10)
    thread.stop()


def findings(result: Result) -> list[dict[str, str]]:
    found = result.json["findings"]
    assert result.json["ok"] is (result.status == 0)
    assert (result.status == 1) == any(one["level"] == "FAIL" for one in found)
    assert result.err == ""
    for one in found:
        assert "\n" not in one["what"] + one["remedy"]
        assert bool(one["remedy"]) is (one["level"] != "OK")
    return list(found)


def examined() -> list[dict[str, str]]:
    return findings(roster("doctor", "-o", "json"))


def the_one(found: list[dict[str, str]], words: str) -> dict[str, str]:
    matching = [one for one in found if words in one["what"]]
    assert len(matching) == 1, found
    return matching[0]


def _fingerprint(directory: Path) -> dict[str, Any]:
    """Names, inodes and contents of all plain files; the -shm is SQLite's scratch memory, read-marks included."""
    return {
        str(path.relative_to(directory)): (
            path.lstat().st_ino,
            path.lstat().st_mode,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted(directory.rglob("*"))
        if not path.name.endswith("-shm")
    }


# -- health -------------------------------------------------------------------------------------------------------


def test_a_healthy_team_has_no_finding_but_good_ones(place: Place) -> None:
    place.start("editor-001")
    place.start("editor-002")

    result = roster("doctor")

    assert result.status == 0
    assert {line.split()[0] for line in result.out.splitlines()} == {"OK"}
    assert f"Roster {__version__}, Python {sys.version.split()[0]}, SQLite" in result.out
    assert "2 of 2 live nodes answered a ping within 2 s" in result.out
    assert "2 registered: 2 ready" in result.out
    assert re.search(r"sqlite:///\S+ answers in \d+\.\d ms \(revision \d+, compacted to 0", result.out)


def test_it_writes_nothing(place: Place) -> None:
    node = place.start()
    place.thread.run(node.stop(), timeout=10)
    place.nodes.clear()
    place.put(node_key("default", "bad"), b"{")
    # One client stays, so that SQLite does not take its -wal away with the last.
    keeper = place.thread.run(_opened(place.registry_url), timeout=10)
    try:
        before = _fingerprint(place.directory)
        roster("doctor")
        assert _fingerprint(place.directory) == before
    finally:
        place.thread.run(keeper.close(), timeout=10)


async def _opened(url: str) -> Store:
    store = open_store(url)
    await store.__aenter__()
    return store


def test_with_nothing_there_it_makes_nothing(place: Place) -> None:
    found = examined()

    assert the_one(found, "nothing was ever registered")["level"] == "WARN"
    assert list(place.directory.iterdir()) == []


# -- the store ----------------------------------------------------------------------------------------------------


def test_a_registry_that_was_deleted_is_told(place: Place) -> None:
    place.start()
    place.registry.unlink()

    found = examined()

    assert the_one(found, f"{place.registry} was deleted")["level"] == "FAIL"
    assert not place.registry.exists()


def test_a_registry_that_was_replaced_is_told(place: Place) -> None:
    place.start()
    other = place.directory / "other"
    other.write_bytes(place.registry.read_bytes())
    other.replace(place.registry)

    assert the_one(examined(), "was replaced by another")["level"] == "FAIL"


def test_a_lost_file_of_leases_is_told(place: Place) -> None:
    place.start()
    (place.directory / "registry.db-leases").unlink()

    assert the_one(examined(), "lost its file of leases")["level"] == "FAIL"
    assert not (place.directory / "registry.db-leases").exists()


def test_an_empty_registry_is_told(place: Place) -> None:
    place.registry.touch()

    assert the_one(examined(), "is empty")["level"] == "FAIL"
    assert place.registry.stat().st_size == 0


def test_a_corrupted_registry_is_told_with_what_to_do(place: Place) -> None:
    node = place.start()
    place.thread.run(node.stop(), timeout=10)
    place.nodes.clear()
    with place.registry.open("r+b") as file:
        file.write(b"not a database" * 100)

    found = the_one(examined(), "is damaged")

    assert found["level"] == "FAIL"
    assert "delete it" in found["remedy"]


def test_a_registry_that_cannot_be_written_is_told() -> None:
    # Root may write everything, so this is done by a user without rights, in a place that such a user can enter.
    script = """
        import asyncio, os, sys
        from roster.cli import main
        from roster.registry import Registry
        import concurrent.futures.thread, roster.store.sqlite, uuid
        main(["doctor", "--registry", "memory://", "--bus", "memory://"])  # imports what that user may not read
        print("---")
        if os.getuid() == 0:
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
        path = sys.argv[1]
        os.environ["ROSTER_REGISTRY"] = f"sqlite://{path}/registry.db"
        os.environ["ROSTER_STATE_DIR"] = path
        async def use():
            async with Registry.connect() as registry:
                await registry.store.put("/x", b"")
        asyncio.run(use())
        os.chmod(f"{path}/registry.db", 0o400)
        sys.exit(main(["doctor"]))
    """
    with tempfile.TemporaryDirectory(prefix="roster-doctor") as name:
        Path(name).chmod(0o755)
        directory = Path(name) / "s"
        directory.mkdir(mode=0o700)
        if os.getuid() == 0:
            os.chown(directory, 65534, 65534)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ROSTER_")}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), directory],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=environment,
        )

    assert done.returncode == 1, done.stderr
    told = done.stdout.split("---")[1]
    assert "FAIL  store        the registry can be read but not written" in told
    assert "-> give this user the rights" in told


@pytest.mark.parametrize(("free", "level"), [(4096, "FAIL"), (10 * 1024 * 1024, "WARN"), (1 << 40, None)])
def test_a_disk_that_is_full_or_nearly_so_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch, free: int, level: str | None
) -> None:
    place.with_store(lambda store: store.info())

    def nearly_full(path: str) -> FileFacts:
        return replace(inspect.look(path), free=free)

    monkeypatch.setattr(store_check, "look", nearly_full)

    told = [one for one in examined() if "are free" in one["what"]]
    assert [one["level"] for one in told] == ([level] if level else [])


def test_a_lease_with_an_impossible_deadline_is_told(place: Place) -> None:
    from roster.store.sqlite.engine import SqliteStore

    async def grant_from_the_future() -> SqliteStore:
        store = SqliteStore(str(place.registry), now=lambda: 10_000_000.0)
        await store.grant(30)
        return store

    store = place.thread.run(grant_from_the_future(), timeout=10)
    try:
        found = the_one(examined(), "later than its TTL of 30 s allows")
    finally:
        place.thread.run(store.close(), timeout=10)
    assert found["level"] == "WARN"


@pytest.mark.parametrize("option", ["--registry", "--bus"])
def test_a_url_that_cannot_be_read_is_a_finding_and_the_rest_is_looked_at(place: Place, option: str) -> None:
    result = roster("doctor", option, "nonsense://secret:word@x")

    assert result.status == 1
    assert len(re.findall("^FAIL", result.out, re.MULTILINE)) == 1
    assert "secret" not in result.out + result.err
    assert re.search("^OK +environment", result.out, re.MULTILINE)


# -- what is registered -------------------------------------------------------------------------------------------


def test_quarantined_documents_are_named_with_the_reason(place: Place) -> None:
    place.put(node_key("default", "bad"), b"{\x1b[31m")
    place.put(node_key("default", "liar"), passport("somebody-else", "x"))

    found = examined()

    assert the_one(found, "/ai-team/nodes/default/bad is quarantined: ")["level"] == "FAIL"
    assert "the key is the identity" in the_one(found, "nodes/default/liar is quarantined")["what"]
    assert "\x1b" not in roster("doctor").out


def test_contracts_that_contradict_each_other_are_named(place: Place) -> None:
    for name, kind in (("a", "string"), ("b", "integer")):
        document = passport(name, {"name": "write", "input_schema": {"topic": kind}})
        document["status"] = {"last_heartbeat": _ago(1)}
        place.put(node_key("default", name), document)

    found = the_one(examined(), "contract mismatch: write 1.0.0")

    assert found["level"] == "WARN"
    assert "default/a" in found["what"]
    assert "default/b" in found["what"]


def _ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).replace(tzinfo=None).isoformat() + "Z"


def _founding(heartbeat: float) -> bytes:
    document = passport("old", "x")
    document["status"] = {"state": "ready", "last_heartbeat": _ago(heartbeat)}
    return json.dumps(document).encode()


def test_a_founding_document_without_a_lease_that_nobody_refreshes_is_named(place: Place) -> None:
    place.put(node_key("default", "old"), _founding(3600))

    found = the_one(examined(), "put without a lease and its last heartbeat was 60m")
    assert found["level"] == "WARN"
    assert "prune" in found["remedy"]

    place.put(node_key("default", "old"), _founding(2))
    assert not [one for one in examined() if "without a lease" in one["what"]]


@pytest.mark.parametrize("refreshes", [False, True])
def test_the_founding_loop_as_printed_is_named_and_with_refresh_it_is_not(
    place: Place, refreshes: bool
) -> None:
    from roster.store.sqlite.engine import SqliteStore

    # A clock of its own brings the lease of a loop that began 20 s ago.
    shift = -20.0

    def clock() -> float:
        from roster._clock import boottime

        return boottime() + shift

    async def beat() -> SqliteStore:
        nonlocal shift
        store = SqliteStore(str(place.registry), now=clock)
        lease = await store.grant(30)
        await store.put(node_key("default", "old"), _founding(20), lease=lease.id)
        shift = 0.0
        await store.put(node_key("default", "old"), _founding(0), lease=lease.id)
        if refreshes:
            await lease.keep_alive()
        return store

    store = place.thread.run(beat(), timeout=10)
    try:
        told = [one for one in examined() if "default/old" in one["what"] and one["area"] == "nodes"]
    finally:
        place.thread.run(store.close(), timeout=10)
    if refreshes:
        assert told == []
    else:
        (found,) = told
        assert "was put with a lease but never renews it" in found["what"]
        assert "lease.refresh()" in found["remedy"]


def test_a_node_that_lives_in_the_future_is_named(place: Place) -> None:
    place.put(node_key("default", "old"), _founding(-120))

    assert "default/old by 1" in the_one(examined(), "wall clocks differ")["what"]


def test_what_a_node_says_is_wrong_with_it_is_repeated(place: Place) -> None:
    node = place.start()
    node.set_condition("Warm", "False", "Cold", "no model is loaded")

    def told() -> list[dict[str, str]]:
        return [one for one in examined() if "says Warm=False (Cold: no model is loaded)" in one["what"]]

    assert _within(5, told)


def _within(seconds: float, ask: Any) -> Any:
    from roster._clock import boottime

    until = boottime() + seconds
    while not (found := ask()) and boottime() < until:
        pass  # each question takes its time
    return found


# -- the bus ------------------------------------------------------------------------------------------------------


def test_a_deaf_node_is_named(place: Place) -> None:
    node = place.start()
    socket = place.sockets / f"{queue_stem(node.passport.mindbus_queue)}.sock"

    def told() -> list[dict[str, str]]:
        socket.unlink(missing_ok=True)  # the node makes it again within two seconds
        return [one for one in examined() if "default/editor-001" in one["what"] and one["level"] == "FAIL"]

    (found,) = _within(5, told)
    assert "is deaf: nobody consumes the queue" in found["what"]
    assert found["area"] == "bus"


AGENT = """
import sys
from roster import Node
node = Node({passport!r}, registry_url=sys.argv[1], bus_url=sys.argv[2])
@node.capability("x")
async def x() -> dict: ...
node.run()
"""


def test_a_frozen_node_is_named_with_its_process(place: Place) -> None:
    agent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            AGENT.format(passport=passport("frozen", "x")),
            place.registry_url,
            place.bus_url,
        ],
        stderr=subprocess.PIPE,
        env={**os.environ, "ROSTER_LOG": "info"},
    )
    assert agent.stderr is not None
    with agent.stderr:
        try:
            while b"is ready" not in (line := agent.stderr.readline()):
                assert line, "the agent did not start"
            agent.send_signal(signal.SIGSTOP)
            found = the_one(examined(), "default/frozen")
        finally:
            agent.kill()
            agent.wait()

    assert found["level"] == "FAIL"
    assert "does not answer: its process is stopped" in found["what"]
    assert found["remedy"] == f"kill -CONT {agent.pid}, or end it"


def test_sockets_of_the_dead_and_processes_of_other_registries_are_told(place: Place) -> None:
    place.start()
    script = (
        "import asyncio, sys\nfrom roster.bus import open_bus\nasync def main():\n"
        " async with open_bus(sys.argv[1]) as bus:\n"
        "  await bus.serve('stray', lambda delivery: None)\n  print(flush=True)\n  await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    stray = subprocess.Popen([sys.executable, "-c", script, place.bus_url], stdout=subprocess.PIPE)
    assert stray.stdout is not None
    with stray.stdout:
        try:
            stray.stdout.readline()
            living = the_one(examined(), "not in this registry")
        finally:
            stray.kill()
            stray.wait()
    dead = the_one(examined(), "left by dead processes")

    assert living["level"] == dead["level"] == "WARN"
    assert f"stray (pid {stray.pid})" in living["what"]
    assert "1 sockets were left by dead processes: stray" in dead["what"]


def test_dead_letters_are_counted_with_the_newest_reasons(place: Place) -> None:
    async def bury() -> None:
        async with open_bus(place.bus_url) as bus:
            for number in range(5):
                await bus.bury(Message.command("work", {"secret": "of the command"}), f"reason {number}")

    place.thread.run(bury(), timeout=10)

    found = the_one(examined(), "5 dead letters")
    assert found["level"] == "WARN"
    assert [f"reason {number}" in found["what"] for number in range(5)] == [False, False, True, True, True]
    assert "secret" not in found["what"]


def test_a_bus_that_is_gone_or_open_to_others_is_told(place: Place) -> None:
    place.start()
    bus = place.sockets
    bus.chmod(0o755)
    assert the_one(examined(), "is open to others (mode 755)")["level"] == "FAIL"
    assert bus.stat().st_mode & 0o777 == 0o755
    bus.chmod(0o700)
    shutil.move(bus, place.directory / "elsewhere")
    try:
        found = [one for one in examined() if one["area"] == "bus"]
    finally:
        if not bus.exists():
            shutil.move(place.directory / "elsewhere", bus)
    # The node may have made its directory again meanwhile, which is as good.
    assert all("is not there" in one["what"] or one["level"] == "OK" for one in found)


def test_a_broker_that_says_nothing_is_told_and_no_node_is_called_deaf(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.start()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("ROSTER_BUS", f"amqp://127.0.0.1:{silent.getsockname()[1]}")
        found = [one for one in examined() if one["area"] == "bus"]
    assert [one["level"] for one in found] == ["FAIL"]
    assert "cannot reach the broker" in found[0]["what"]


def test_a_broker_that_does_not_let_us_in_is_told_and_no_node_is_called_deaf(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.start()
    where = urlsplit(own_bus())
    monkeypatch.setenv("ROSTER_BUS", f"amqp://owner:wrong@{where.hostname}:{where.port}{where.path}")
    found = [one for one in examined() if one["area"] == "bus"]
    assert [one["level"] for one in found] == ["FAIL"]
    assert "the user or the password is wrong" in found[0]["what"]


# -- the machine and the environment ------------------------------------------------------------------------------


def _says(found: list[Finding], level: str, words: str) -> bool:
    return any(one.level == level and words in one.what for one in found)


@pytest.mark.parametrize(
    ("variables", "level", "words"),
    [
        ({"ROSTER_REGISTRY": "sqlite:///x/y", "ETCD_HOST": "db"}, "WARN", "ROSTER_REGISTRY and ETCD_HOST"),
        ({"ROSTER_BUS": "local:///x", "RABBITMQ_HOST": "mq"}, "WARN", "ROSTER_BUS and RABBITMQ_HOST"),
        ({"ETCD_PORT": "1"}, "WARN", "ETCD_PORT is set without ETCD_HOST"),
        ({"ROSTER_STATE_DIR": "here"}, "WARN", "relative"),
        ({"XDG_STATE_HOME": "here"}, "WARN", "it is not used"),
        ({"ROSTER_REGISTRY": "memory://x"}, "WARN", "seen by this process alone"),
        ({"ROSTER_REGISTRY": "etcd://h"}, "WARN", "is shared between machines"),
        ({"ROSTER_TTL": "soon"}, "FAIL", "ROSTER_TTL is a number of seconds"),
        ({"ROSTER_TTL": "60", "ROSTER_RETENTION": "10"}, "WARN", "shorter than ROSTER_TTL"),
        ({"ROSTER_LOG": "loud"}, "FAIL", "ROSTER_LOG is 'loud'"),
        ({"ROSTER_REGISTRI": "x"}, "WARN", "nothing reads ROSTER_REGISTRI"),
        ({}, "OK", "no variable contradicts another"),
    ],
)  # fmt: skip
def test_variables_that_contradict_each_other_are_told(
    private_state: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], level: str, words: str
) -> None:
    for name in ("ROSTER_TTL", "ROSTER_RETENTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    found = environment.contradictions(variables, None, None)

    assert _says(found, level, words), found
    assert len(found) == 1


def test_a_misspelt_variable_is_met_with_the_right_one() -> None:
    (found,) = environment.contradictions({"ROSTER_REGISTRI": "x"}, "memory://a", "memory://a")
    assert found.remedy == "did you mean ROSTER_REGISTRY?"


def test_every_variable_that_the_code_reads_is_known() -> None:
    source = Path(machine.__file__).parents[2]
    read = {
        name
        for path in source.rglob("*.py")
        for name in re.findall(r"""["'](ROSTER_[A-Z_]+)["']""", path.read_text("utf-8"))
    }
    assert read == environment.KNOWN


def test_clocks_are_judged(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("monotonic           0         0\nboottime            0         0\n")
    shifted = tmp_path / "shifted"
    shifted.write_text("monotonic           0         0\nboottime      -864000         0\n")

    assert [one.level for one in machine.clocks({}, offsets=plain)] == ["OK"]
    assert [one.level for one in machine.clocks({}, offsets=tmp_path / "none")] == ["OK"]
    assert _says(machine.clocks({}, offsets=shifted), "FAIL", "-864000 s off")
    faked = {"LD_PRELOAD": "/usr/lib/libfaketime.so.1"}
    assert _says(machine.clocks(faked, offsets=plain), "WARN", "libfaketime")
    harmless = {**faked, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    assert [one.level for one in machine.clocks(harmless, offsets=plain)] == ["OK"]
    assert _says(machine.clocks({}, offsets=plain, wall=0.0), "WARN", "before 2025")


def test_the_state_directory_is_judged(private_state: Path) -> None:
    assert "is not there yet" in machine.state_directory().what
    private_state.mkdir(mode=0o755)
    assert (machine.state_directory().level, f"chmod 700 {private_state}") == (
        "WARN",
        machine.state_directory().remedy,
    )
    private_state.chmod(0o700)
    assert machine.state_directory().level == "OK"
    private_state.rmdir()
    private_state.touch()
    assert machine.state_directory().level == "FAIL"


def test_progress_is_for_terminals(place: Place) -> None:
    assert roster("doctor").err == ""
