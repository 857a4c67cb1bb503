"""`get`, `find` and `describe` show what is registered, as kubectl would."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from tests.cli.conftest import Stage, roster, writer
from tests.conftest import passport

Team = tuple[str, str]


# -- get nodes --------------------------------------------------------------------------------------------------------


def test_the_default_namespace_is_listed(team: Team) -> None:
    result = roster("get", "nodes")

    assert result.out.splitlines()[0].split() == [
        "NAME",
        "STATE",
        "LOAD",
        "CAPABILITIES",
        "AGE",
        "LAST",
        "SEEN",
    ]
    (row,) = result.rows
    assert row[:4] == ["editor-001", "ready", "0/1", "edit_text"]
    assert re.fullmatch(r"\d+m?\d*s?", row[4])
    assert row[5] == "0s"


@pytest.mark.parametrize("kind", ["node", "nodes", "no"])
def test_a_kind_has_short_names(team: Team, kind: str) -> None:
    assert [row[0] for row in roster("get", kind, "-n", "ai-team").rows] == ["writer-001", "writer-002"]


def test_all_namespaces_begin_with_a_column_for_it(team: Team) -> None:
    result = roster("get", "nodes", "-A")

    assert result.out.startswith("NAMESPACE")
    assert [row[:2] for row in result.rows] == [
        ["ai-team", "writer-001"],
        ["ai-team", "writer-002"],
        ["default", "editor-001"],
    ]


def test_the_environment_names_the_namespace(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSTER_NAMESPACE", "ai-team")

    assert len(roster("get", "nodes").rows) == 2
    assert len(roster("get", "nodes", "-n", "default").rows) == 1


def test_an_empty_namespace_says_where_the_others_are(team: Team) -> None:
    result = roster("get", "nodes", "-n", "empty")

    assert (result.status, result.out) == (0, "")
    assert result.err == "no nodes in namespace empty (3 in others: use -A)\n"
    assert roster("get", "nodes", "-n", "empty", "-o", "json").json["items"] == []


def test_an_empty_registry_says_so(stage: Stage) -> None:
    assert roster("get", "nodes", "-A").err == "no nodes are registered\n"
    assert roster("get", "nodes").err == "no nodes in namespace default\n"
    assert roster("get", "capabilities", "-A").err == "no capabilities are registered\n"


def test_a_selector_chooses(team: Team) -> None:
    assert [row[1] for row in roster("get", "nodes", "-A", "-l", "tier=b").rows] == ["writer-002"]
    assert [row[1] for row in roster("get", "nodes", "-A", "-l", "!role").rows] == ["editor-001"]
    assert roster("get", "nodes", "-l", "tier=z").err == "no nodes in namespace default match 'tier=z'\n"


def test_a_selector_that_cannot_be_read_is_told(team: Team) -> None:
    result = roster("get", "nodes", "-l", "a in (")

    assert result.status == 1
    assert result.err.startswith("error: ")


def test_wide_shows_more(team: Team) -> None:
    result = roster("get", "nodes", "-n", "ai-team", "-o", "wide")

    assert result.out.splitlines()[0].split()[-5:] == ["VERSION", "QUEUE", "LABELS", "UID", "CONDITIONS"]
    assert result.rows[1][6:9] == ["1.2.0", "agent.ai-team.writer-002", "role=writer,tier=b"]


def test_headings_can_be_left_out(team: Team) -> None:
    assert roster("get", "nodes", "--no-headers").out.startswith("editor-001")


def test_names_are_printed_for_pipes(team: Team) -> None:
    assert roster("get", "nodes", "-A", "-o", "name").out.splitlines() == [
        "node/writer-001", "node/writer-002", "node/editor-001",
    ]  # fmt: skip


def test_json_is_a_list_of_passports_with_their_live_status(team: Team) -> None:
    found = roster("get", "nodes", "-n", "ai-team", "-o", "json").json

    assert list(found) == ["apiVersion", "kind", "items"]
    assert (found["apiVersion"], found["kind"]) == ("v1", "List")
    first = found["items"][0]
    assert list(first) == ["apiVersion", "kind", "metadata", "spec", "status"]
    assert first["metadata"]["name"] == "writer-001"
    assert first["metadata"]["uid"]
    assert first["spec"]["capabilities"][0]["description"] == "Написание статей"
    assert (first["status"]["state"], first["status"]["active_tasks"]) == ("ready", 0)


def test_one_name_prints_the_object_itself(team: Team) -> None:
    found = roster("get", "node", "writer-001", "-n", "ai-team", "-o", "json").json

    assert found["kind"] == "NodePassport"
    assert (
        yaml.safe_load(roster("get", "node/writer-001", "-n", "ai-team", "-o", "yaml").out)["metadata"]
        == found["metadata"]
    )


def test_what_get_prints_is_a_valid_passport(team: Team) -> None:
    text = roster("get", "node", "ai-team/writer-001", "-o", "yaml").out

    result = roster("validate", "--strict", "-", stdin=text.encode())
    assert (result.status, result.out) == (0, "<stdin>: ok (ai-team/writer-001)\n")


def test_several_names_are_listed(team: Team) -> None:
    result = roster("get", "nodes", "writer-002", "node/writer-001", "ai-team/writer-001", "-n", "ai-team")

    assert [row[0] for row in result.rows] == ["writer-002", "writer-001", "writer-001"]


def test_a_name_is_found_in_all_namespaces(team: Team) -> None:
    assert roster("get", "node", "writer-001", "-A").rows[0][:2] == ["ai-team", "writer-001"]


def test_a_node_that_is_not_there_has_its_own_status(team: Team) -> None:
    result = roster("get", "node", "writer-001")

    assert result.status == 5
    assert result.err == (
        "error: no node default/writer-001 is registered (there is one in the namespace ai-team)\n"
    )
    assert roster("get", "node", "nobody", "-A").status == 5


@pytest.mark.parametrize(
    ("by", "order"),
    [
        ("name", ["editor-001", "writer-001", "writer-002"]),
        ("version", ["writer-001", "editor-001", "writer-002"]),
        (".metadata.labels.tier", ["writer-002", "writer-001", "editor-001"]),
        ("{.spec.resources.max_concurrent_tasks}", ["editor-001", "writer-001", "writer-002"]),
    ],
)
def test_a_list_is_sorted_by_a_column_or_a_field(team: Team, by: str, order: list[str]) -> None:
    assert [row[1] for row in roster("get", "nodes", "-A", "--sort-by", by).rows] == order


def test_sorting_by_nothing_known_is_refused(team: Team) -> None:
    assert "--sort-by 'shoe-size': name one of" in roster("get", "nodes", "--sort-by", "shoe-size").err


def test_a_document_that_cannot_be_read_is_named_and_hides_no_other(stage: Stage) -> None:
    stage.put(passport("good", "work"))
    bad = passport("broken", "work")
    bad["spec"]["capabilities"] = 5
    stage.put(bad)

    result = roster("get", "nodes")
    assert [row[0] for row in result.rows] == ["good"]
    assert "warning: quarantined '/ai-team/nodes/default/broken': spec.capabilities" in result.err
    assert "spec.capabilities" in roster("get", "node", "broken").err


def test_a_schema_that_cannot_be_used_is_told_where_it_stands(stage: Stage) -> None:
    stage.put(passport("odd", {"name": "work", "input_schema": {"a": "nosuch"}}))

    described = roster("describe", "node", "odd")
    assert described.status == 0
    assert "    schema: " in described.out
    assert roster("get", "capabilities").rows[0][0] == "work"


# -- get capabilities -------------------------------------------------------------------------------------------------


def test_capabilities_are_listed_with_who_is_healthy(team: Team) -> None:
    assert [row[:4] for row in roster("get", "caps", "-A").rows] == [
        ["edit_text", "1.0.0", "1/1", "<none>"],
        ["write_article", "1.0.0,1.2.0", "2/2", "Написание"],
    ]
    assert roster("get", "capabilities", "-n", "empty").err == (
        "no capabilities in namespace empty (there are some in others: use -A)\n"
    )


def test_capabilities_can_be_chosen_by_label_and_name(team: Team) -> None:
    assert [row[:3] for row in roster("get", "caps", "-A", "-l", "tier=b").rows] == [
        ["write_article", "1.2.0", "1/1"]
    ]
    found = roster("get", "capability", "edit_text", "-o", "json").json
    assert found["nodes"] == [
        {"namespace": "default", "name": "editor-001", "state": "ready", "version": "1.0.0"}
    ]
    assert found["input_schema"] == {"text": "string"}
    assert roster("get", "cap", "-A", "-o", "name").out == "capability/edit_text\ncapability/write_article\n"
    assert "ai-team/writer-001,ai-team/writer-002" in roster("get", "cap", "-A", "-o", "wide").out


def test_a_capability_that_nobody_has_is_told(team: Team) -> None:
    result = roster("get", "capability", "fly", "-A")

    assert result.status == 7
    assert result.err == (
        "error: no node offers the capability 'fly': see what is on offer with 'roster get capabilities -A'\n"
    )


# -- find -------------------------------------------------------------------------------------------------------------


def test_find_looks_into_all_namespaces(team: Team) -> None:
    assert [row[:2] for row in roster("find", "write_article").rows] == [
        ["ai-team", "writer-001"],
        ["ai-team", "writer-002"],
    ]


def test_find_narrows_by_version_selector_and_namespace(team: Team) -> None:
    assert [row[1] for row in roster("find", "write_article", "--version", ">=1.1").rows] == ["writer-002"]
    assert [row[1] for row in roster("find", "write_article", "-l", "!tier").rows] == ["writer-001"]
    assert roster("find", "write_article", "-n", "default").status == 7
    assert roster("find", "write_article", "-o", "name").out == "node/writer-001\nnode/writer-002\n"


def test_find_tells_that_nobody_can(team: Team) -> None:
    result = roster("find", "fly", "-o", "json")

    assert result.status == 7
    assert result.json["items"] == []
    assert result.err.startswith(
        "error: no healthy node offers the capability 'fly'; see what is on offer with"
    )


def test_find_leaves_out_the_unhealthy_unless_asked(stage: Stage) -> None:
    stage.start(writer, "writer-001")
    stage.put({**passport("dead", "write_article"), "status": {"state": "draining"}})

    assert [row[1] for row in roster("find", "write_article").rows] == ["writer-001"]
    assert [row[1] for row in roster("find", "write_article", "--all").rows] == ["writer-001", "dead"]
    result = roster("find", "write_article", "-n", "default")
    assert result.status == 7
    assert "under these conditions" in result.err
    assert "default/dead: draining" in result.err


# -- describe ---------------------------------------------------------------------------------------------------------


def test_describe_tells_everything_of_a_node(team: Team) -> None:
    text = roster("describe", "node", "writer-002", "-n", "ai-team").out

    for line in (
        "Name:          writer-002",
        "Namespace:     ai-team",
        "Version:       1.2.0",
        "Labels:        role=writer",
        "               tier=b",
        "Annotations:   <none>",
        "State:         ready",
        "Load:          0 of 3 tasks",
        "Queue:         agent.ai-team.writer-002",
        "  write_article 1.2.0",
        "    Написание статей",
        "    idempotent: true",
        "      topic: string (required)",
        "      words: integer or null",
        "  max_concurrent_tasks: 3",
    ):
        assert line in text.splitlines(), line
    assert re.search(r"^Lease: +30 s, held by host .* pid \d+$", text, re.MULTILINE)


def test_describe_takes_several(team: Team) -> None:
    text = roster("describe", "node", "ai-team/writer-001", "ai-team/writer-002").out

    assert text.count("Name:  ") == 2


def test_describe_tells_how_to_call_a_capability(team: Team) -> None:
    lines = roster("describe", "capability", "write_article").out.splitlines()

    assert lines[:4] == [
        "Name:          write_article",
        "Versions:      1.0.0, 1.2.0",
        "Nodes:         ai-team/writer-001 (ready)",
        "               ai-team/writer-002 (ready)",
    ]
    assert "      topic: string (required)" in lines
    assert roster("describe", "capability", "fly").status == 7


def test_describe_shows_conditions(stage: Stage) -> None:
    node = stage.start(writer, "writer-001")
    node.set_condition("PaperLow", "True", "TrayEmpty", "only 3 sheets")

    from tests.cli.test_watch import until

    text = until(
        lambda: roster("describe", "node", "ai-team/writer-001").out, lambda text: "Conditions:" in text
    )
    assert re.search(r"PaperLow=True since \S+ \(TrayEmpty: only 3 sheets\)", text)


def test_describe_shows_nested_schemas_shortly(stage: Stage) -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            "who": {"type": "object", "properties": {"name": {"type": "string", "description": "full name"}}},
            "tone": {"enum": ["dry", "warm"]},
            "parts": {"type": "array", "items": {"type": "integer"}},
            "any": True,
            "odd": {"minimum": 5},
        },
        "required": ["tone"],
    }
    stage.put(passport("n", {"name": "c", "input_schema": schema}))

    lines = [line.strip() for line in roster("describe", "node", "n").out.splitlines()]
    assert lines[lines.index("input:") + 1 : -1] == [
        "who: object",
        "name: string - full name",
        'tone: one of "dry", "warm" (required)',
        "parts: list of integer",
        "any: anything",
        'odd: {"minimum": 5}',
    ]
    assert lines[-1] == "output: anything"
