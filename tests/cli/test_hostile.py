"""What strangers write into the registry is shown, and never obeyed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.cli.conftest import Stage, roster, writer
from tests.conftest import passport

ATTACK = "\x1b]0;owned\x07\x1b[2J\r\u202egnp\x9b31m[red]x[/red]"
SHOWN = "\\x1b]0;owned\\x07\\x1b[2J\\x0d\\u202egnp\\x9b31m[red]x[/red]"


@pytest.fixture
def hostile(stage: Stage) -> Stage:
    document: dict[str, Any] = passport(
        "evil",
        {"name": ATTACK, "description": ATTACK + "\nsecond line", "input_schema": {"a": "string"}},
        labels={"l": ATTACK},
    )
    document["metadata"]["annotations"] = {ATTACK: ATTACK}
    document["spec"]["version"] = ATTACK
    document["spec"]["type"] = ATTACK
    document["spec"]["resources"] = {"llm_model": ATTACK, ATTACK: [ATTACK]}
    stage.put(document)
    return stage


@pytest.mark.parametrize(
    "args",
    [
        ["get", "nodes"],
        ["get", "nodes", "-A", "-o", "wide"],
        ["get", "nodes", "-o", "yaml"],
        ["get", "node", "evil", "-o", "json"],
        ["get", "capabilities", "-o", "wide"],
        ["get", "capabilities", "-o", "name"],
        ["get", "capabilities", "-o", "json"],
        ["describe", "node", "evil"],
        ["describe", "capability", ATTACK],
        ["find", ATTACK],
        ["find", ATTACK, "-o", "wide"],
        ["find", "x" + ATTACK],
        ["get", "capability", "x" + ATTACK],
        ["get", "node", "x" + ATTACK],
        ["get", ATTACK],
        ["get", "nodes", "-n", ATTACK],
        ["get", "nodes", "-l", ATTACK],
        ["get", "nodes", "--sort-by", ATTACK],
        ["call", "x" + ATTACK],
        ["call", ATTACK, "-p", ATTACK],
        ["call", ATTACK, "-p", "a=b", "--timeout", "1s"],
        ["validate", "x" + ATTACK],
        ["register", "-f", "x" + ATTACK],
        [ATTACK],
    ],
)  # fmt: skip
def test_no_view_lets_control_characters_through(hostile: Stage, args: list[str]) -> None:
    result = roster(*args)
    said = result.out + result.err

    assert said.strip()
    assert not set(said) & set("\x1b\x07\r\u202e\x9b"), result
    assert all(line.isprintable() for line in said.split("\n"))


def test_the_attack_can_be_read(hostile: Stage) -> None:
    assert SHOWN in roster("get", "nodes", "-o", "wide").out
    assert SHOWN in roster("describe", "node", "evil").out


def test_programs_get_what_was_written(hostile: Stage) -> None:
    found = roster("get", "node", "evil", "-o", "json")

    assert found.json["metadata"]["labels"] == {"l": ATTACK}


def test_an_error_from_a_node_is_made_safe(stage: Stage) -> None:
    stage.start(writer, "writer-001")

    result = roster("call", "write_article", "-p", "topic=trouble")
    assert result.status == 6
    assert not set(result.err) & set("\x1b\x07\r\u202e\x9b")
    assert "no ink \\x1b[31m left" in result.err


def test_a_log_line_is_made_safe(stage: Stage) -> None:
    document = passport("evil", "work")
    document["metadata"]["name"] = "evil"
    document["spec"]["version"] = ["\x1b[2J"]
    stage.put(document)
    document["metadata"]["namespace"] = "elsewhere"
    stage.put({**document, "metadata": {**document["metadata"], "name": "other", "labels": {ATTACK: 5}}})

    result = roster("get", "nodes", "-vv")
    assert "quarantined" in result.err
    assert not set(result.err) & set("\x1b\x07\r\u202e\x9b")


def test_json_escapes_what_a_terminal_would_obey(hostile: Stage) -> None:
    text = roster("get", "node", "evil", "-o", "json").out

    assert "\\u001b]0;owned\\u0007" in text
    assert "\\u202e" in text
    assert "\\u009b31m" in text
    json.loads(text)
