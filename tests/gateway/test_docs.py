"""What docs/gateway.md shows is what happens, and names everything that there is."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from tests.docs.markdown import Document
from tests.gateway.conftest import Served, Serving, until

from roster.gateway import Gateway, Limits
from roster.gateway.app import create_api, describe

PAGE = Document.read("docs/gateway.md")
SOURCES = Path(__file__).parents[2] / "src" / "roster" / "gateway"


def _program(served: Served) -> str:
    (block,) = [one for one in PAGE.blocks if one.language == "python"]
    return block.text.replace("http://127.0.0.1:8700", served.url)


async def _run(*command: str, **options: Any) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, **options
    )
    out, _ = await process.communicate()
    return out.decode()


async def test_the_program_of_twenty_lines_and_every_command_do_what_the_page_shows(serving: Serving) -> None:
    (block,) = [one for one in PAGE.blocks if one.language == "console"]
    shown: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            shown.append((line[2:], []))
        else:
            shown[-1][1].append(line)
    async with serving() as served:
        program = await asyncio.create_subprocess_exec(sys.executable, "-c", _program(served))
        try:
            await until(lambda: served.gateway.members.count == 1)
            wrong = []
            for command, output in shown:
                found = await _run("sh", "-c", command.replace("http://127.0.0.1:8700", served.url))
                pattern = ".*?".join(re.escape(piece) for piece in "\n".join(output).split("..."))
                if not re.fullmatch(pattern, found.strip(), re.DOTALL):
                    wrong.append(f"$ {command}\n{found}\nexpected:\n" + "\n".join(output))
        finally:
            program.kill()
            await program.wait()

    assert len(shown) > 5
    assert not wrong, "\n\n".join(wrong)


def test_the_program_has_about_twenty_lines_and_needs_the_standard_library_alone() -> None:
    (block,) = [one for one in PAGE.blocks if one.language == "python"]
    lines = [line for line in block.text.splitlines() if line.strip()]

    assert len(lines) <= 26
    imported = set(re.findall(r"^import (.+)$", block.text, re.MULTILINE)[0].split(", "))
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


def test_the_page_names_every_route_and_no_other() -> None:
    paths = set(describe(create_api(Gateway()))["paths"])
    known = {re.sub(r"\{\w+\}", "{}", path) for path in paths}
    own = "/api/v1/nodes/{namespace}/{name}/"
    text = PAGE.text.replace("`...`", "").replace(".../", own)
    text = re.sub(r"`/(?=(?:undrain)\b)", f"`{own}", text)
    named = {
        re.sub(r"\{\w+\}", "{}", one)
        for one in re.findall(r"/(?:api/v1|healthz|readyz|metrics)[\w/{}]*", text)
    }

    assert known - named - {"/healthz", "/readyz"} == set()
    assert {one for one in named if one.startswith("/api/v1/") and "{" in one} - known == set()


async def test_the_page_names_every_metric_and_no_other(served: Served) -> None:
    text = (await served.client.get("/metrics")).text
    real = {
        name for name in re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE) if not name.endswith("_created")
    }
    named = set(re.findall(r"`(roster_[a-z_]+)`", PAGE.text)) - {"roster_session"}

    assert named == real


def test_the_page_names_every_problem_and_no_other() -> None:
    words = set()
    for path in SOURCES.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        words |= set(
            re.findall(r"(?:Problem|_refuse)\(\s*(?:\d{3}|error\.status_code),\s*\"([a-z-]+)\"", text)
        )
        words |= set(re.findall(r"Error, \d{3}, \"([a-z-]+)\"", text))
    words |= {"method-not-allowed"}
    table = PAGE.text.partition("| problem | status |")[2].partition("\n## ")[0]
    named = {
        word
        for row in table.splitlines()
        if row.startswith("| `")
        for word in re.findall(r"`([a-z-]+)`", row.split("|")[1])
    }

    assert named == words


def test_the_page_tells_the_limits_as_they_are() -> None:
    limits = Limits()
    table = PAGE.text.partition("\n## Limits")[2]
    for number in (
        f"{limits.header_bytes // 1024} KB",
        f"{limits.header_seconds:g} s",
        f"{limits.body_bytes // 2**20} MiB",
        f"{limits.body_seconds:g} s",
        f"{limits.write_seconds:g} s",
        str(limits.connections),
        str(limits.streams),
        f"{limits.rate:g}",
        f"{limits.failures} wrong tokens",
    ):
        assert number in table, number
    assert len(fields(limits)) == 11
    assert os.path.exists(SOURCES)
