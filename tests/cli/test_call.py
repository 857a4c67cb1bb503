"""`call` has a node do it and prints the answer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from tests.cli.conftest import Result, Stage, roster, writer

Team = tuple[str, str]


def test_the_result_is_json_on_stdout_alone(team: Team) -> None:
    result = roster("call", "write_article", "-p", "topic=пчёлы")

    assert result.status == 0
    assert result.json == {"article": "All about пчёлы", "metadata": {}}
    assert "пчёлы" in result.out
    assert result.err == ""


def test_params_are_typed_by_the_schema(team: Team) -> None:
    result = roster(
        "call",
        "write_article",
        "-p",
        "topic=7",
        "-p",
        "words=12",
        "-p",
        "share=0.5",
        "-p",
        "draft=true",
        "-p",
        'style:="x"',
    )

    assert result.json["article"] == "All about 7"
    assert result.json["metadata"] == {"style": "x", "words": 12, "share": 0.5, "draft": True}


def test_params_come_from_an_option_a_file_or_standard_input(team: Team, tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text('{"topic": "file", "words": 1}')

    assert (
        roster("call", "write_article", "--params", '{"topic": "option"}').json["article"]
        == "All about option"
    )
    assert (
        roster("call", "write_article", "--params", "-", stdin=b'{"topic":"pipe"}').json["article"]
        == "All about pipe"
    )
    merged = roster("call", "write_article", "--params", f"@{tmp_path}/params.json", "-p", "words=2").json
    assert merged == {"article": "All about file", "metadata": {"words": 2}}


def test_the_result_can_be_yaml_or_raw(team: Team) -> None:
    expected = {"article": "All about x", "metadata": {}}

    assert yaml.safe_load(roster("call", "write_article", "-p", "topic=x", "-o", "yaml").out) == expected
    raw = roster("call", "write_article", "-p", "topic=x", "-o", "raw").out
    assert raw == json.dumps(expected) + "\n"


def test_progress_and_timing_go_to_stderr(team: Team) -> None:
    result = roster("call", "write_article", "-p", "topic=x", "--progress", "-v", "-l", "tier=b")

    progress, timing = [line for line in result.err.splitlines() if not line.startswith("info:")]
    assert re.fullmatch(r'ai-team/writer-002 \{.*"step": 1, "of": 2.*\}', progress)
    assert re.fullmatch(r"answered by ai-team/writer-002 in \d\.\d{3} s", timing)
    assert result.json["article"] == "All about x"


def test_the_node_can_be_narrowed_down(team: Team) -> None:
    for option in (["-l", "!tier"], ["--version", "<1.1"]):
        result = roster("call", "write_article", "-p", "topic=x", "-v", *option)
        assert "answered by ai-team/writer-001" in result.err
    assert roster("call", "write_article", "-p", "topic=x", "-n", "default", "--timeout", "1").status == 7


@pytest.mark.parametrize(
    "strategy", [["round_robin"], ["random"], ["least_loaded"], ["sticky", "--sticky-key", "k"]]
)
def test_the_strategy_can_be_chosen(team: Team, strategy: list[str]) -> None:
    assert (
        roster("call", "write_article", "-p", "topic=x", "--strategy", *strategy, "--priority", "9").status
        == 0
    )


def test_a_repeat_with_one_key_gets_the_first_answer_and_other_params_are_refused(team: Team) -> None:
    def call(topic: str) -> Result:
        return roster("call", "write_article", "-p", f"topic={topic}", "--idempotency-key", "cli-1")

    first, repeat, other = call("x"), call("x"), call("y")
    assert (first.status, repeat.status) == (0, 0)
    assert first.out == repeat.out
    assert other.status != 0
    assert "other params" in other.err


def test_wrong_params_are_refused_before_anything_is_sent(team: Team) -> None:
    result = roster("call", "write_article", "-p", "subject=x")

    assert result.status == 9
    assert result.err.startswith("error: params of write_article are wrong: ")
    assert "subject" in result.err
    assert result.err.count("\n") == 1


def test_a_param_of_the_wrong_type_is_wrong_usage(team: Team) -> None:
    result = roster("call", "write_article", "-p", "topic=x", "-p", "words=many")

    assert result.status == 2
    assert "-p words=many: the capability wants integer or null here" in result.err


def test_an_unknown_capability_is_told(team: Team) -> None:
    result = roster("call", "fly", "-p", "to=moon")

    assert result.status == 7
    assert result.err.count("\n") == 1


def test_a_failing_handler_is_told_with_the_tries(team: Team) -> None:
    result = roster("call", "write_article", "-p", "topic=trouble")

    assert result.status == 6
    assert "no ink" in result.err
    assert "ai-team/writer-00" in result.err


def test_the_deadline_holds(stage: Stage) -> None:
    stage.start(writer, "writer-001")

    result = roster("call", "write_article", "-p", "topic=waiting", "--timeout", "300ms")
    assert result.status == 10
    assert result.err.count("\n") == 1
