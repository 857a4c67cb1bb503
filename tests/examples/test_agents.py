"""The agents of the examples: their passports, how they are started, and what they refuse."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import pytest

from examples.agents import files, tables, text, writer
from examples.agents.starting import PASSPORTS, passport_of
from examples.teams import EXAMPLES, module_of
from roster import Code, NodePassport, RemoteError
from roster.testing import Team

AGENTS = sorted({agent for example in EXAMPLES.values() for agent in example.agents} | {"writer-001"})


@asynccontextmanager
async def one(module: ModuleType, agent: str) -> AsyncIterator[Team]:
    async with Team() as team:
        await team.add_node(module.make(PASSPORTS / f"{agent}.yaml"))
        yield team


# -- starting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", AGENTS)
async def test_an_agent_serves_what_its_passport_says(agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("LLM_MODEL", "none")
    async with one(importlib.import_module(module_of(agent)), agent) as team:
        passport = NodePassport.load(PASSPORTS / f"{agent}.yaml")
        assert passport.name == agent
        for capability in passport.capabilities:
            assert [node.key for node in await team.registry.find_by_capability(capability.name)] == [
                passport.key
            ]


def test_a_passport_comes_from_the_command_line_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROSTER_PASSPORT", raising=False)
    assert passport_of("text-001.yaml", []) == PASSPORTS / "text-001.yaml"
    monkeypatch.setenv("ROSTER_PASSPORT", "other.yaml")
    assert passport_of("text-001.yaml", []) == Path("other.yaml")
    assert passport_of("text-001.yaml", ["--passport", "third.yaml"]) == Path("third.yaml")


@pytest.mark.parametrize(
    ("agent", "environment", "message"),
    [
        ("text", {"ROSTER_PASSPORT": "nowhere.yaml"}, "nowhere.yaml"),
        ("llm", {"LLM_BASE_URL": ""}, "error: LLM_BASE_URL is not set"),
        ("files", {"ROSTER_REGISTRY": "gopher://host"}, "error: "),
    ],
)
def test_an_agent_that_cannot_start_says_why_in_one_line(
    agent: str, environment: dict[str, str], message: str, private_state: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"examples.agents.{agent}"],
        cwd=PASSPORTS.parents[1],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode not in (0, -15)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


# -- files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["../secret.txt", "/etc/hostname", "a/../../secret.txt", "", "out.txt", "a\0b", "outside/secret.txt"],
)
async def test_nothing_outside_the_library_is_read(path: str, library: Path, output: Path) -> None:
    (library.parent / "secret.txt").write_text("secret", "utf-8")
    (library / "out.txt").symlink_to(library.parent / "secret.txt")
    (library / "outside").symlink_to(library.parent)
    async with one(files, "files-001") as team:
        with pytest.raises(RemoteError) as caught:
            await team.call("read_file", {"path": path})
        assert caught.value.code == Code.INVALID_ARGUMENT
        listed = await team.call("list_files", {"pattern": "**/*.txt"})
    assert listed == {"paths": []}


@pytest.mark.parametrize("path", ["../x.md", "/tmp/x.md", "a/../../x.md", "", "link/x.md"])
async def test_nothing_outside_the_output_is_written(path: str, library: Path, output: Path) -> None:
    output.mkdir()
    (output / "link").symlink_to(library)
    async with one(files, "files-001") as team:
        with pytest.raises(RemoteError) as caught:
            await team.call("write_file", {"path": path, "text": "x"})
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert not list(library.iterdir())
    assert [one.name for one in output.iterdir()] == ["link"]


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (None, Code.NOT_FOUND, "there is no file a.txt"),
        (b"\xff\xfe", Code.INVALID_ARGUMENT, "no text in UTF-8: byte 0 is wrong"),
        (b"x" * (files.MAX_BYTES + 1), Code.INVALID_ARGUMENT, "larger than"),
    ],
)
async def test_what_cannot_be_read_says_why(
    content: bytes | None, code: Code, message: str, library: Path, output: Path
) -> None:
    if content is not None:
        (library / "a.txt").write_bytes(content)
    async with one(files, "files-001") as team:
        with pytest.raises(RemoteError, match=message) as caught:
            await team.call("read_file", {"path": "a.txt"})
    assert caught.value.code == code
    assert not caught.value.retryable


async def test_a_file_is_written_whole_and_again(library: Path, output: Path) -> None:
    async with one(files, "files-001") as team:
        for text_ in ("one", "два"):
            answer = await team.call("write_file", {"path": "a/b.md", "text": text_})
            assert answer == {"path": str(output / "a" / "b.md"), "bytes": len(text_.encode())}
    assert (output / "a" / "b.md").read_text("utf-8") == "два"
    assert [one.name for one in (output / "a").iterdir()] == ["b.md"]


# -- the others -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "agent", "capability", "params", "message"),
    [
        (text, "text-001", "measure_readability", {"text": "..."}, "no words"),
        (text, "text-001", "extract_keywords", {"text": "a", "language": "xx"}, "there are en, ru, de"),
        (tables, "tables-001", "check_table", {"csv": "a,a\n", "types": {}}, "columns need names"),
        (tables, "tables-001", "find_outliers", {"csv": "a\n1\n", "column": "b"}, "no column b"),
        (
            writer,
            "writer-001",
            "write_article",
            {"topic": "bees", "style": "loud"},
            "there are plain and list",
        ),
    ],
)
async def test_what_makes_no_sense_is_refused_for_good(
    module: ModuleType, agent: str, capability: str, params: dict[str, object], message: str
) -> None:
    async with one(module, agent) as team:
        with pytest.raises(RemoteError, match=message) as caught:
            await team.call(capability, params)
    assert (caught.value.code, caught.value.retryable) == (Code.INVALID_ARGUMENT, False)


@pytest.mark.parametrize(
    ("topic", "source", "sentence"),
    [
        ("scout", "bees.txt", "Bees find flowers by sending scouts."),
        ("маяки", "lighthouse.txt", "Летом на маяк приезжают люди."),
        ("Sauerteig", "brot.txt", "Der Sauerteig lebt."),
    ],
)
async def test_the_writer_writes_what_the_library_says(topic: str, source: str, sentence: str) -> None:
    async with one(writer, "writer-001") as team:
        answer = await team.call("write_article", {"topic": topic, "style": "list"})
        assert f"- {sentence}" in answer["article"].splitlines()
        assert answer["metadata"]["sources"] == [source]
        with pytest.raises(RemoteError, match="says nothing about 'quasars'") as caught:
            await team.call("write_article", {"topic": "quasars"})
    assert caught.value.code == Code.NOT_FOUND


@pytest.mark.parametrize(
    ("given", "tidied"),
    [
        ("  many   spaces ", "Many spaces."),
        ("a , b !\n\n\nещё", "A, b!\n\nЕщё."),
        ("", ""),
    ],
)
async def test_the_writer_tidies(given: str, tidied: str) -> None:
    async with one(writer, "writer-001") as team:
        assert await team.call("edit_text", {"text": given}) == {"edited_text": tidied}
