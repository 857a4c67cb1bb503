"""`roster gateway` as a process of its own: how it starts, ends, is killed, and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from tests.gateway.conftest import BOUND, team_passport, until
from tests.gateway.test_doors import READER, token_file

pytestmark = pytest.mark.processes


@asynccontextmanager
async def gateway(
    directory: Path, *options: str, **environment: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "roster", "gateway", "--listen", "127.0.0.1:0", *options),
        stderr=asyncio.subprocess.PIPE,
        env={
            **os.environ,
            "ROSTER_REGISTRY": f"sqlite:///{directory}/registry.db",
            "ROSTER_BUS": f"local://{directory}/bus",
            "ROSTER_STATE_DIR": str(directory),
            **environment,
        },
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(BOUND):
            line = (await process.stderr.readline()).decode()
        assert "listens on http://127.0.0.1:" in line, line
        port = int(line.partition("127.0.0.1:")[2].partition(";")[0])
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=BOUND) as client:

            async def ready() -> bool:
                return (await client.get("/readyz")).status_code == 200

            await until(ready)
            yield process, client
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _leave(process: asyncio.subprocess.Process, number: signal.Signals) -> int:
    process.send_signal(number)
    async with asyncio.timeout(BOUND):
        return await process.wait()


async def test_it_leaves_in_good_order_at_sigterm_with_streams_open(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (process, client):
        made = await client.post("/api/v1/nodes", json=team_passport("counter-001", "count_words"))
        assert made.status_code == 201
        async with client.stream("GET", "/api/v1/watch") as stream:
            lines = stream.aiter_lines()
            await anext(lines)
            leaving = asyncio.create_task(_leave(process, signal.SIGTERM))
            async for _ in lines:
                pass
            assert await leaving == 0
    async with gateway(tmp_path) as (process, client):
        assert (await client.get("/api/v1/nodes")).json()["items"] == []
        assert await _leave(process, signal.SIGINT) == 130


async def test_a_killed_gateway_is_started_anew_and_its_programs_register_again(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (process, client):
        first = await client.post("/api/v1/nodes", json=team_passport("counter-001", "count_words"))
        process.kill()
        await process.wait()
    async with gateway(tmp_path) as (process, client):
        lost = await client.post(
            "/api/v1/nodes/ai-team/counter-001/heartbeat", json={"uid": first.json()["uid"]}
        )
        again = await client.post("/api/v1/nodes", json=team_passport("counter-001", "count_words"))
        node = (await client.get("/api/v1/nodes/ai-team/counter-001")).json()
        assert await _leave(process, signal.SIGTERM) == 0

    assert lost.status_code == 404
    assert again.status_code == 201, again.text
    assert node["metadata"]["uid"] == again.json()["uid"] != first.json()["uid"]
    assert node["status"]["state"] == "ready"


async def test_tokens_come_from_a_file_and_stand_in_no_list_of_processes(tmp_path: Path) -> None:
    tokens = token_file(tmp_path)
    async with gateway(tmp_path, ROSTER_GATEWAY_TOKENS=str(tokens)) as (process, client):
        none = await client.get("/api/v1/nodes")
        some = await client.get("/api/v1/nodes", headers={"authorization": f"Bearer {READER}"})
        line = Path(f"/proc/{process.pid}/cmdline")
        if line.exists():
            assert READER.encode() not in line.read_bytes()
        assert await _leave(process, signal.SIGTERM) == 0

    assert (none.status_code, some.status_code) == (401, 200)


async def test_an_address_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (_, client):
        address = f"127.0.0.1:{client.base_url.port}"
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "roster", "gateway", "--listen", address),
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "ROSTER_REGISTRY": "memory://x", "ROSTER_BUS": "memory://x"},
        )
        _, said = await second.communicate()

    assert second.returncode == 1
    assert f"cannot listen on {address}" in said.decode()
    assert len(said.decode().splitlines()) == 1


async def test_without_the_extra_it_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['fastapi'] = None; from roster.cli import main; sys.exit(main(['gateway']))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()

    assert process.returncode == 1
    assert "pip install 'agent-roster[gateway]'" in said.decode()
