"""`roster migrate`, `export` and `import` as people use them: in a shell, killed, interrupted, and run again."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from tests.cli.conftest import Stage, editor, ended, roster, writer
from tests.conftest import eventually, passport

from roster.passport import NodePassport
from roster.registry.keys import ROOT, node_key
from roster.store import open_store

MANY = 400


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A registry file with many passports that nobody holds, and the URL of one that is not there yet."""
    for name in ("ROSTER_REGISTRY", "ROSTER_MIGRATE_FROM", "ROSTER_MIGRATE_TO", "ROSTER_RETENTION"):
        monkeypatch.delenv(name, raising=False)
    url = f"sqlite://{tmp_path}/old.db"

    async def fill() -> None:
        async with open_store(url) as store:
            for at in range(0, MANY, 50):
                documents = [NodePassport.from_dict(passport(f"n-{number}")) for number in range(at, at + 50)]
                await asyncio.gather(
                    *(store.put(node_key("default", one.name), one.to_json()) for one in documents)
                )

    asyncio.run(fill())
    return url, f"sqlite://{tmp_path}/new.db"


async def keys(url: str) -> dict[str, int]:
    async with open_store(url) as store:
        return {entry.key: entry.mod_revision for entry in (await store.list(ROOT)).entries}


def test_a_dry_run_says_each_and_makes_no_file(files: tuple[str, str], tmp_path: Path) -> None:
    result = roster("migrate", "--from", files[0], "--to", files[1], "--dry-run")

    assert result.status == 0
    lines = result.out.splitlines()
    assert lines[0] == "would copy default/n-0"
    assert lines[-1].startswith(f"{MANY} would be copied, 0 unchanged")
    assert not (tmp_path / "new.db").exists()


def test_a_copy_is_verified_and_a_second_one_writes_nothing(files: tuple[str, str]) -> None:
    first = roster("migrate", "--from", files[0], "--to", files[1])
    there = asyncio.run(keys(files[1]))
    again = roster("migrate", "--from", files[0], "--to", files[1], "-o", "json")

    assert first.status == again.status == 0
    assert first.out.splitlines()[-1] == f"verified: {MANY} nodes and 0 other keys are level"
    assert (again.json["ok"], again.json["copied"], again.json["unchanged"]) == (True, [], MANY)
    assert asyncio.run(keys(files[1])) == there


def test_urls_come_from_the_environment_too(files: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSTER_REGISTRY", files[0])
    monkeypatch.setenv("ROSTER_MIGRATE_TO", files[1])
    assert roster("migrate").status == 0


def test_what_cannot_be_is_refused_in_one_line(files: tuple[str, str], tmp_path: Path) -> None:
    for arguments, status, text in (
        (["--from", files[0]], 2, "name the registry to copy to"),
        (["--from", files[0], "--to", files[0]], 1, "one registry"),
        (["--from", f"sqlite://{tmp_path}/typo.db", "--to", files[1]], 1, "there is no registry file"),
        (["--from", files[0], "--to", files[1], "--follow", "--dry-run"], 2, "contradict each other"),
        (["--from", files[0], "--to", "etcd://me:hunter2@h1/?colour=red"], 1, "unknown or repeated option"),
    ):
        result = roster("migrate", *arguments)
        assert (result.status, result.out) == (status, ""), result
        assert text in result.err
        assert "hunter2" not in result.err
    assert not (tmp_path / "typo.db").exists()


def test_a_document_that_is_odd_is_named_without_its_escapes(files: tuple[str, str]) -> None:
    async def put() -> None:
        async with open_store(files[0]) as store:
            await store.put("/ai-team/nodes/default/\x1b[31mred", b"{")

    asyncio.run(put())
    result = roster("migrate", "--from", files[0], "--to", files[1])

    assert result.status == 0
    assert "\x1b" not in result.err
    assert r"\x1b[31mred is no passport that can be used, and is copied as it is" in result.err


async def start(*args: str, **more: str) -> asyncio.subprocess.Process:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROSTER_")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "roster",
        *args,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**environment, **more},
    )


async def _halfway(url: str, process: asyncio.subprocess.Process) -> None:
    """Return when some keys have arrived."""
    path = Path(url.removeprefix("sqlite://"))
    await eventually(lambda: process.returncode is not None or path.exists(), 20)
    async with asyncio.timeout(20):
        while len(await keys(url)) < 3:
            assert process.returncode is None


async def test_killed_in_the_middle_it_goes_on_where_it_stopped(files: tuple[str, str]) -> None:
    process = await start("migrate", "--from", files[0], "--to", files[1])
    async with ended(process):
        await _halfway(files[1], process)
        process.kill()
        await process.communicate()
    there = await keys(files[1])
    assert 0 < len(there) < MANY

    again = await start("migrate", "--from", files[0], "--to", files[1], "-o", "json")
    async with ended(again):
        out, _ = await again.communicate()
    said = json.loads(out)

    assert (again.returncode, said["ok"], said["unchanged"]) == (0, True, len(there))
    now = await keys(files[1])
    assert len(now) == MANY
    assert {key: now[key] for key in there} == there


async def test_ctrl_c_ends_it_and_says_how_far_it_came(files: tuple[str, str]) -> None:
    process = await start("migrate", "--from", files[0], "--to", files[1])
    async with ended(process):
        await _halfway(files[1], process)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()

    assert (process.returncode, out) == (130, b"")
    assert f"of {MANY}; run it again, and it goes on" in err.decode()
    assert b"Traceback" not in err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
async def test_following_ends_when_it_is_asked_to(
    files: tuple[str, str], number: signal.Signals, status: int
) -> None:
    process = await start("migrate", "--from", files[0], "--to", files[1], "--follow")
    async with ended(process):
        assert process.stderr is not None
        async with asyncio.timeout(20):
            while b"following;" not in await process.stderr.readline():
                assert process.returncode is None
        process.send_signal(number)
        out, err = await process.communicate()

    assert process.returncode == status
    assert b"verified: 400 nodes" in out
    assert b"ended;" in err


def test_on_a_terminal_there_is_a_bar(files: tuple[str, str]) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(
        [sys.executable, "-m", "roster", "migrate", "--from", files[0], "--to", files[1]],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=environment,
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # Linux says so when the other end is closed
                break
            if not piece:
                break
            seen += piece
        os.close(ours)
        assert process.wait(20) == 0
    assert b"\xe2\x94\x81" in seen  # the bar
    assert f"/{MANY}".encode() in seen


# -- export and import -----------------------------------------------------------------------------


def test_what_export_wrote_import_brings_back(stage: Stage, tmp_path: Path) -> None:
    stage.start(writer, "writer-001")
    stage.start(editor, "editor-001")
    file = tmp_path / "out.yaml"

    assert roster("export", "-o", str(file)).err == f"2 passports written to {file}\n"
    assert _without_status(roster("export").out) == _without_status(file.read_text())
    copy = f"sqlite://{tmp_path}/copy.db"
    dry = roster("import", str(file), "--registry", copy, "--dry-run")
    assert dry.out == "node ai-team/writer-001 would be imported\nnode default/editor-001 would be imported\n"
    done = roster("import", str(file), "--registry", copy)
    assert done.out == "node ai-team/writer-001 imported\nnode default/editor-001 imported\n"
    assert [row[1:3] for row in roster("get", "nodes", "-A", "--registry", copy).rows] == [
        ["writer-001", "offline"],
        ["editor-001", "offline"],
    ]
    back = tmp_path / "back.yaml"
    roster("export", "-o", str(back), "--registry", copy)
    assert _without_status(back.read_text()) == _without_status(file.read_text())

    again = roster("import", str(file), "-o", "json")
    assert {node["outcome"] for node in again.json["nodes"]} == {"alive"}


def _without_status(text: str) -> list[str]:
    return [document.partition("\nstatus:")[0] for document in text.split("---\n")]


def test_a_list_is_imported_from_a_pipe(stage: Stage, tmp_path: Path) -> None:
    stage.start(writer, "writer-001")
    listed = roster("get", "nodes", "-A", "-o", "json").out

    result = roster(
        "import", "-", "--registry", f"sqlite://{tmp_path}/{uuid.uuid4().hex}.db", stdin=listed.encode()
    )

    assert (result.status, result.out) == (0, "node ai-team/writer-001 imported\n")


def test_a_faulty_file_is_refused_whole_with_every_fault(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    good = NodePassport.from_dict(passport("good")).to_yaml()
    file.write_text(f"{good}---\nkind: NodePassport\n---\nx: &a [*a]\n")

    result = roster("import", str(file))

    assert (result.status, result.out) == (1, "")
    assert f"{file}:14:1: apiVersion" in result.err
    assert "stands inside what it names" in result.err
    assert f"{file} has 4 faults" in result.err
    assert roster("get", "nodes", "-A").err == "no nodes are registered\n"


def test_what_cannot_be_exported_or_imported_again_is_named(stage: Stage, tmp_path: Path) -> None:
    loose = passport("loose")
    loose["spec"]["version"] = "one"
    stage.put(loose)
    stage.put({**passport("broken"), "kind": "Other"})

    result = roster("export", "-o", str(tmp_path / "out.yaml"))

    assert result.status == 1
    assert "default/loose is exported, but `roster import` will refuse it" in result.err
    assert "/ai-team/nodes/default/broken is not exported" in result.err


def test_a_file_that_is_no_file_is_said(stage: Stage, tmp_path: Path) -> None:
    assert "is not a regular file" in roster("import", str(tmp_path)).err
    assert "is a directory" in roster("export", "-o", str(tmp_path)).err
    assert "No such file" in roster("import", str(tmp_path / "nope.yaml")).err
    assert "No such file" in roster("export", "-o", str(tmp_path / "nope" / "out.yaml")).err
