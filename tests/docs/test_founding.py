"""The founding document's orchestrator runs on `roster.sync`, with other imports and other connections."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.docs import founding_snippets as founding
from tests.docs.markdown import ROOT

from roster import sync

PASSPORT = ROOT / "examples" / "passports" / "writer-001.yaml"
# Reading the registry is the one connection that is not made on a line of its own.
_CHANGED = re.compile(r"(from|import) |\w+ = .*(connect|client)\(|for \w+(, \w+)? in |.*yaml\.safe_load\(")


class Writer:
    """The founding document's agent, and what it was asked to do."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self._news = threading.Condition()
        self.node = sync.Node(PASSPORT)

        @self.node.capability("write_article")
        def write_article(topic: str, style: str = "plain") -> dict[str, Any]:
            with self._news:
                self.asked.append((topic, style))
                self._news.notify_all()
            return {"article": topic, "metadata": {}}

        @self.node.capability("edit_text")
        def edit_text(text: str) -> dict[str, str]:
            return {"edited_text": text}

    def wait_for(self, count: int) -> list[tuple[str, str]]:
        with self._news:
            assert self._news.wait_for(lambda: len(self.asked) >= count, 10)
            return self.asked


@pytest.fixture
def writer(private_state: Path) -> Iterator[Writer]:
    made = Writer()
    with made.node:
        yield made


@contextmanager
def running(snippet: str, **names: Any) -> Iterator[dict[str, Any]]:
    """Run a snippet and yield its names; what it opened is closed after, as at the end of a program."""
    scope: dict[str, Any] = {"__name__": "founding", **names}
    try:
        exec(compile(founding.program(snippet), "founding-document", "exec"), scope)
        yield scope
    finally:
        for value in list(scope.values()):
            owner = getattr(value, "__self__", value)
            if isinstance(owner, (sync.Registry, sync.MindBus)):
                owner.close()


@pytest.mark.parametrize("name", founding.ALL)
def test_only_lines_that_import_or_connect_were_changed(name: str) -> None:
    changed = founding.changes(founding.ALL[name])
    assert changed
    for line in changed:
        assert _CHANGED.match(line.strip()), line


def test_a_writer_is_found_in_its_document_and_sent_a_command(
    writer: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(founding.FIND_AND_SEND) as scope:
        assert capsys.readouterr().out == "Found 1 writer nodes\n"
        assert scope["mindbus_queue"] == "agent.writer.001"
        assert writer.wait_for(1) == [("AI trends 2025", "plain")]


def test_a_node_is_chosen_by_capability(writer: Writer) -> None:
    with running(founding.CAPABILITY_BASED) as scope:
        target, send_command = scope["target"], scope["send_command"]
        assert target.name == "writer-001"
        answer = send_command(queue=target.mindbus_queue, action="write_article", params={"topic": "x"})
        assert answer.result(timeout=10)["article"] == "x"
        assert writer.asked == [("x", "plain")]  # the line as printed has no params: the node refuses that


def test_a_step_of_a_card_is_sent_to_the_least_loaded(writer: Writer) -> None:
    step = {"action": "write_article", "params": {"topic": "bees", "style": "odd"}}
    with running(founding.PROCESS_CARD, step=step):
        assert writer.wait_for(1) == [("bees", "odd")]


def test_a_step_that_nobody_can_do_raises_the_documents_error(writer: Writer) -> None:
    with (
        pytest.raises(sync.NoCapableNodesError) as caught,
        running(founding.PROCESS_CARD, step={"action": "paint", "params": {}}),
    ):
        raise AssertionError("it must not come so far")
    assert str(caught.value) == "No nodes with capability: paint"


def test_the_documents_own_health_check_finds_a_living_node_alive(writer: Writer) -> None:
    with running(founding.HEALTH) as scope:
        assert [node["metadata"]["name"] for node in scope["healthy_writers"]] == ["writer-001"]
        assert not scope["is_node_healthy"]({"status": {"last_heartbeat": "2025-12-15T10:05:00Z"}})


def test_a_program_that_asks_when_nobody_is_there_finds_nobody(private_state: Path) -> None:
    with running(founding.HEALTH) as scope:
        assert scope["writers"] == scope["healthy_writers"] == []
