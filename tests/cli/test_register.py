"""`register` keeps a passport registered while a command runs, and passes signals and exit status."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import ended
from tests.cli.test_watch import lines
from tests.conftest import eventually, passport

from roster import NodeNotFoundError, Registry
from roster.registry import NodeRecord

Urls = tuple[str, str]


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A passport's file."""
    path = tmp_path / "passport.json"
    path.write_text(json.dumps(passport("worker", "work", namespace="team")))
    return str(path)


async def _start(urls: Urls, *args: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "roster", "register", *args,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "ROSTER_REGISTRY": urls[0], "ROSTER_BUS": urls[1]},
    )  # fmt: skip


async def _end(process: asyncio.subprocess.Process) -> tuple[int, str]:
    assert process.stderr is not None
    error = await asyncio.wait_for(process.stderr.read(), 20)
    return await asyncio.wait_for(process.wait(), 10), error.decode()


async def _listed(registry: Registry) -> NodeRecord | None:
    try:
        return await registry.get("worker", "team")
    except NodeNotFoundError:
        return None


def _look(registry: Registry) -> NodeRecord | None:
    return registry.informer.get("team/worker")


async def test_the_node_is_registered_while_the_command_runs(file_urls: Urls, file: str) -> None:
    command = (
        "sh",
        "-c",
        "echo $ROSTER_NODE_NAME $ROSTER_NODE_NAMESPACE $ROSTER_NODE_UID $ROSTER_NODE_QUEUE; read x; exit 7",
    )
    async with (
        ended(await _start(file_urls, "-f", file, "--", *command)) as process,
        Registry.connect(file_urls[0]) as registry,
    ):
        name, namespace, uid, queue = (await anext(lines(process))).split()
        record = await _listed(registry)
        assert record is not None
        assert (name, namespace, uid, queue) == ("worker", "team", record.uid, "agent.team.worker")
        assert record.state == "ready"
        assert process.stdin is not None
        process.stdin.write(b"\n")

        assert await _end(process) == (7, "")
        await eventually(lambda: _look(registry) is None)


async def test_the_command_meets_the_registry_that_was_given_as_an_option(file_urls: Urls, file: str) -> None:
    options = ("--registry", file_urls[0], "--bus", file_urls[1])
    script = "echo $ROSTER_REGISTRY $ROSTER_BUS"
    async with ended(
        await _start(("nonsense://", "nonsense://"), *options, "-f", file, "--", "sh", "-c", script)
    ) as process:
        assert (await anext(lines(process))).split() == list(file_urls)
        assert await _end(process) == (0, "")


async def test_options_behind_the_command_are_the_commands(file_urls: Urls, file: str) -> None:
    async with ended(
        await _start(file_urls, "-f", file, "sh", "-c", 'echo "$0" "$@"', "--debug", "-n", "--ttl")
    ) as process:
        assert await anext(lines(process)) == "--debug -n --ttl"
        assert (await _end(process))[0] == 0


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
)
async def test_a_signal_is_passed_on(file_urls: Urls, file: str, number: signal.Signals) -> None:
    script = f"trap 'echo got; exit 9' {number.name[3:]}; echo up; while :; do sleep 0.02; done"
    async with ended(await _start(file_urls, "-f", file, "--", "sh", "-c", script)) as process:
        said = lines(process)
        assert await anext(said) == "up"
        process.send_signal(number)
        assert await anext(said) == "got"
        assert await _end(process) == (9, "")


async def test_the_node_drains_before_the_command_hears_of_the_end(file_urls: Urls, file: str) -> None:
    script = "trap 'echo told; read x; exit 0' TERM; echo up; while :; do sleep 0.02; done"
    async with (
        ended(await _start(file_urls, "-f", file, "--", "sh", "-c", script)) as process,
        Registry.connect(file_urls[0]) as registry,
    ):
        said = lines(process)
        assert await anext(said) == "up"
        process.terminate()
        assert await anext(said) == "told"
        record = await _listed(registry)
        assert record is not None
        assert record.state == "draining"
        assert process.stdin is not None
        process.stdin.write(b"\n")
        assert await _end(process) == (0, "")
        await eventually(lambda: _look(registry) is None)


async def test_a_command_that_dies_of_a_signal_has_its_status(file_urls: Urls, file: str) -> None:
    async with ended(await _start(file_urls, "-f", file, "--", "sh", "-c", "kill -9 $$")) as process:
        assert await _end(process) == (137, "")


@pytest.mark.parametrize(
    ("command", "status", "reason"),
    [("/no/such/thing", 127, "there is no command"), ("/", 126, "cannot be run")],
)
async def test_a_command_that_cannot_start_leaves_nothing_registered(
    file_urls: Urls, file: str, command: str, status: int, reason: str
) -> None:
    async with ended(await _start(file_urls, "-f", file, "--", command)) as process:
        found, error = await _end(process)
    assert found == status
    assert error.startswith("error: ")
    assert reason in error
    async with Registry.connect(file_urls[0]) as registry:
        assert await registry.find() == []


async def test_without_a_command_it_holds_until_a_signal(file_urls: Urls, file: str) -> None:
    for number, status in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        async with (
            ended(await _start(file_urls, "-f", file, "--ttl", "3s")) as process,
            Registry.connect(file_urls[0]) as registry,
        ):
            assert process.stderr is not None
            said = (await asyncio.wait_for(process.stderr.readline(), 10)).decode()
            assert said.startswith("team/worker is registered, uid ")
            record = await _listed(registry)
            assert record is not None
            assert record.status is not None
            assert record.status.ttl == 3.0
            process.send_signal(number)
            assert await _end(process) == (status, "")


async def test_the_passport_can_come_from_standard_input(file_urls: Urls, file: str) -> None:
    async with ended(await _start(file_urls, "-f", "-", "--", "echo", "hello")) as process:
        out, _ = await asyncio.wait_for(process.communicate(Path(file).read_bytes()), 20)
        assert (process.returncode, out) == (0, b"hello\n")


async def test_a_wrong_passport_starts_nothing(file_urls: Urls, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        "apiVersion: ai-team.dev/v1\nkind: NodePassport\nmetadata: {name: A}\nspec: {version: x}\n"
    )
    async with ended(
        await _start(file_urls, "-f", f"{tmp_path}/bad.yaml", "--", "touch", f"{tmp_path}/ran")
    ) as process:
        status, error = await _end(process)
    assert status == 1
    first, second, last = error.splitlines()
    assert first.startswith(f"{tmp_path}/bad.yaml:3:12: metadata.name: ")
    assert second.startswith(f"{tmp_path}/bad.yaml:4:8: spec.version: ")
    assert last == f"error: {tmp_path}/bad.yaml has 2 faults; correct what the lines above name"
    assert not (tmp_path / "ran").exists()


async def test_a_name_that_is_held_is_refused_and_can_be_taken_over(file_urls: Urls, file: str) -> None:
    script = "trap 'echo ending; exit 0' TERM; echo up; while :; do sleep 0.02; done"
    async with ended(await _start(file_urls, "-f", file, "--ttl", "1s", "--", "sh", "-c", script)) as first:
        said = lines(first)
        assert await anext(said) == "up"
        async with ended(await _start(file_urls, "-f", file, "--", "true")) as second:
            status, error = await _end(second)
            assert status == 4
            assert error.count("\n") == 1
        async with ended(await _start(file_urls, "-f", file, "--takeover", "--", "cat")) as third:
            # The first learns of it at its next keep-alive, a third of its TTL.
            assert await anext(said) == "ending"
            status, error = await _end(first)
            assert status == 4
            assert "another process has taken the name over; ending the command" in error
            assert error.splitlines()[-1].startswith("error: the name team/worker was taken over")
            assert third.stdin is not None
            third.stdin.close()
            assert (await _end(third))[0] == 0


async def test_ctrl_c_on_a_terminal_reaches_the_command_once(
    file_urls: Urls, file: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    script = f"trap 'echo int >> {log}' INT; echo up >> {log}; while :; do sleep 0.02; [ -e {log}.stop ] && exit 3; done"
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {**os.environ, "ROSTER_REGISTRY": file_urls[0], "ROSTER_BUS": file_urls[1]}
        os.execve(
            sys.executable,
            [sys.executable, "-m", "roster", "register", "-f", file, "--", "sh", "-c", script],
            environment,
        )
    try:
        await eventually(lambda: log.exists() and log.read_text())
        async with Registry.connect(file_urls[0]) as registry:
            os.write(terminal, b"\x03")
            await registry.synced()
            await eventually(lambda: (record := _look(registry)) is not None and record.state == "draining")
            await eventually(lambda: "int" in log.read_text())
            Path(f"{log}.stop").touch()
            _, status = await asyncio.wait_for(asyncio.to_thread(os.waitpid, pid, 0), 20)
            pid = 0
        assert os.waitstatus_to_exitcode(status) == 3
        assert log.read_text() == "up\nint\n"
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(terminal)
