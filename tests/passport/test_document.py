"""A passport is read, shown, changed and written back exactly."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.passport.samples import FOUNDING, small, yaml_with

from roster.errors import DocumentError
from roster.passport import NodePassport, validate_files


@pytest.fixture
def founding() -> NodePassport:
    return NodePassport.load(FOUNDING)


def faults(error: pytest.ExceptionInfo[DocumentError]) -> list[str]:
    return [fault.path for fault in error.value.faults]


def test_the_founding_example_says_what_it_says(founding: NodePassport) -> None:
    assert (founding.name, founding.namespace, founding.key) == (
        "writer-001",
        "ai-team",
        "ai-team/writer-001",
    )
    assert founding.labels == {"role": "writer", "team": "content"}
    assert founding.annotations["description"] == "Пишет статьи и контент"
    assert (founding.type, founding.version, founding.state) == ("agent", "1.0.0", "ready")
    assert [each.name for each in founding.capabilities] == ["write_article", "edit_text"]
    assert (founding.mindbus_queue, founding.mindbus_routing_key) == ("agent.writer.001", "cmd.writer.#")
    assert (founding.llm_model, founding.max_concurrent_tasks) == ("gpt-4", 3)
    assert (founding.uid, founding.generation, founding.warnings) == (None, 0, ())


def test_the_founding_example_is_stored_and_returned_exactly(founding: NodePassport) -> None:
    as_others_read_it = yaml.safe_load(FOUNDING.read_text())
    assert founding.to_dict() == as_others_read_it
    assert json.dumps(founding.to_dict()) == json.dumps(as_others_read_it), "the order of keys is kept too"
    assert yaml.safe_load(founding.to_json()) == as_others_read_it
    assert yaml.safe_load(founding.to_yaml()) == as_others_read_it
    assert NodePassport.from_stored(founding.to_json()).to_dict() == as_others_read_it


def test_what_a_founding_style_agent_puts_is_read(founding: NodePassport) -> None:
    raw = yaml.dump(yaml.safe_load(FOUNDING.read_text())).encode()
    assert NodePassport.from_stored(raw) == founding


def test_the_founding_documents_lines_run_on_a_passport(founding: NodePassport) -> None:
    nodes = [founding]
    assert nodes[0]["spec"]["communication"]["mindbus_queue"] == "agent.writer.001"
    assert [cap["name"] for cap in founding["spec"].get("capabilities", [])] == ["write_article", "edit_text"]
    assert founding["status"]["last_heartbeat"].replace("Z", "+00:00") == "2025-12-15T10:05:00+00:00"
    assert founding.get("nothing") is None
    assert "spec" in founding
    assert list(founding) == ["apiVersion", "kind", "metadata", "spec", "status"]
    assert len(founding) == 5


def test_a_passport_equals_the_document_it_holds(founding: NodePassport) -> None:
    document = founding.to_dict()
    assert founding == document
    assert document == founding
    document["spec"]["capabilities"][0]["name"] = "other"
    assert founding != document


def test_nothing_in_a_passport_can_be_changed(founding: NodePassport) -> None:
    section: Any = founding["spec"]
    with pytest.raises(TypeError):
        section["type"] = "service"
    with pytest.raises(TypeError):
        section["capabilities"][0] = {}
    with pytest.raises(TypeError):
        founding.labels["role"] = "x"  # type: ignore[index]  # the point of this test
    with pytest.raises(AttributeError, match="with_status"):
        founding.name = "x"
    with pytest.raises(AttributeError):
        founding.capabilities[0].name = "x"
    founding.to_dict()["spec"]["type"] = "service"
    schema: Any = founding.capabilities[0].input_json_schema
    schema["properties"].clear()
    assert founding == NodePassport.load(FOUNDING)
    assert founding.capabilities[0].input_json_schema != schema


def test_a_passport_does_not_follow_the_dict_it_was_made_from() -> None:
    source = small(capabilities=[{"name": "write"}])
    passport = NodePassport.from_dict(source)
    source["spec"]["capabilities"][0]["name"] = "other"
    assert passport.capabilities[0].name == "write"


def test_it_copies_and_pickles(founding: NodePassport) -> None:
    assert copy.deepcopy(founding) is founding
    assert pickle.loads(pickle.dumps(founding)) == founding
    assert pickle.loads(pickle.dumps(founding.capabilities[0])) == founding.capabilities[0]


def test_what_is_left_out_has_the_documented_defaults() -> None:
    passport = NodePassport.from_dict(small())
    assert passport.namespace == "default"
    assert passport.mindbus_queue == "agent.default.writer-001"
    assert (passport.max_concurrent_tasks, passport.type, passport.state) == (1, "agent", "ready")
    assert (passport.version, passport.llm_model, passport.mindbus_routing_key, passport.uid) == (None,) * 4
    assert (passport.labels, passport.annotations, passport.capabilities) == ({}, {}, ())
    assert passport.to_dict() == small(), "defaults are not written into the document"


def test_null_is_the_same_as_left_out() -> None:
    document = small(capabilities=None, communication=None, resources=None, version=None)
    document["metadata"].update(labels=None, annotations=None, namespace=None)
    document["status"] = None
    passport = NodePassport.from_dict(document)
    assert passport.key == "default/writer-001"
    assert (passport.capabilities, passport.mindbus_queue) == ((), "agent.default.writer-001")
    assert passport.to_dict() == document


def test_a_capability_says_what_it_says() -> None:
    declared = {
        "name": "write",
        "description": "Пишет",
        "version": "2.1.0",
        "tags": ["text"],
        "idempotent": False,
        "timeout": 1.5,
    }
    bare = {"name": "edit"}
    written, edited = NodePassport.from_dict(
        small(version="1.0.0", capabilities=[declared, bare])
    ).capabilities
    assert (written.description, written.version, written.tags) == ("Пишет", "2.1.0", ("text",))
    assert (written.idempotent, written.timeout) == (False, 1.5)
    assert (edited.description, edited.tags, edited.idempotent, edited.timeout) == ("", (), None, None)
    assert edited.version == "1.0.0", "a capability without a version has the node's"
    assert edited.input_json_schema is None
    assert edited.input_validator is None
    assert edited.output_validator is None


def test_every_fault_is_listed_with_its_place() -> None:
    text = """\
apiVersion: ai-team.dev/v1
kind: NodePassport
metadata:
  name: 5
  labels: [a]
spec:
  version: 1.10
  capabilities:
    - name: write
      timeout: soon
  resources:
    max_concurrent_tasks: "3"
"""
    with pytest.raises(DocumentError) as error:
        NodePassport.parse(text, source="node.yaml")
    assert [(fault.path, fault.line, fault.column) for fault in error.value.faults] == [
        ("metadata.name", 4, 3),
        ("metadata.labels", 5, 3),
        ("spec.version", 7, 3),
        ("spec.capabilities[0].timeout", 10, 7),
        ("spec.resources.max_concurrent_tasks", 12, 5),
    ]
    assert "node.yaml:10:7: spec.capabilities[0].timeout: expected a number above 0" in str(error.value)
    assert 'found text "soon"' in str(error.value)
    assert "put it in quotes" in str(error.value).splitlines()[2]


def test_json_faults_have_places_too() -> None:
    text = '{"apiVersion": "ai-team.dev/v1", "kind": "NodePassport",\n\t"metadata": {"name": "a"},\n\t"spec": {"type": 1}}'
    with pytest.raises(DocumentError) as error:
        NodePassport.parse(text)
    (fault,) = error.value.faults
    assert (fault.path, fault.line, fault.column) == ("spec.type", 3, 11)


@pytest.mark.parametrize(
    "name",
    [
        "a/b",
        "../etc",
        "..",
        "a\x00b",
        "Writer",
        "writer_1",
        "-a",
        "a-",
        "",
        "a" * 64,
        "a\n",
        "wrіter",  # U+0456, the Cyrillic look-alike
        "ａ",  # full width
        "\x1b[31mred",
        "a.b",
    ],
)
def test_a_name_that_is_no_dns_label_is_refused_with_the_rule(name: str) -> None:
    document = small()
    document["metadata"] = {"name": name, "namespace": name}
    with pytest.raises(DocumentError, match="DNS-1123 label") as error:
        NodePassport.from_dict(document)
    assert faults(error) == ["metadata.name", "metadata.namespace"]
    assert str(error.value).replace("\n", "").isprintable(), "nothing reaches the terminal raw"
    with pytest.raises(DocumentError, match="DNS-1123 label"):
        NodePassport.from_stored(json.dumps(document).encode())


def test_a_look_alike_letter_is_named() -> None:
    with pytest.raises(DocumentError, match=r"character 3 is U\+0456"):
        NodePassport.from_dict({**small(), "metadata": {"name": "wrіter"}})


@pytest.mark.parametrize("field", ["apiVersion", "kind"])
def test_an_unknown_api_version_or_kind_is_refused_with_what_is_known(field: str) -> None:
    with pytest.raises(DocumentError, match=f"{field}: expected .*(ai-team.dev/v1|NodePassport)"):
        NodePassport.from_dict({**small(), field: "other/v9"})


@pytest.mark.parametrize(
    ("labels", "good"),
    [
        ({"role": "writer"}, True),
        ({"role": ""}, True),
        ({"example.com/tier": "a_b.c-D9"}, True),
        ({"a" * 63: "b" * 63}, True),
        ({f"{'a' * 253}/x": "v"}, True),
        ({"a" * 64: "v"}, False),
        ({"role": "b" * 64}, False),
        ({f"{'a' * 254}/x": "v"}, False),
        ({"Example.com/tier": "v"}, False),
        ({"a/b/c": "v"}, False),
        ({"/x": "v"}, False),
        ({"x/": "v"}, False),
        ({"": "v"}, False),
        ({"-a": "v"}, False),
        ({"a": "-v"}, False),
        ({"роль": "v"}, False),
        ({"role": "писатель"}, False),
        ({"role": "a b"}, False),
        ({"role": "a\n"}, False),
        ({"role": 1}, False),
        ({"role": None}, False),
    ],
)
def test_labels_follow_kubernetes_syntax(labels: dict[str, Any], good: bool) -> None:
    document = {**small(), "metadata": {"name": "a", "labels": labels}}
    if good:
        assert NodePassport.from_dict(document).labels == labels
    else:
        with pytest.raises(DocumentError, match=r"metadata\.labels"):
            NodePassport.from_dict(document)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"capabilities": [{"name": "a"}, {"name": "a"}]}, "spec.capabilities[1].name"),
        ({"capabilities": [{"name": "write article"}]}, "spec.capabilities[0].name"),
        ({"capabilities": [{}]}, "spec.capabilities[0].name"),
        ({"capabilities": [None]}, "spec.capabilities[0]"),
        ({"capabilities": {}}, "spec.capabilities"),
        ({"capabilities": [{"name": f"c{i}"} for i in range(257)]}, "spec.capabilities"),
        ({"capabilities": [{"name": "a", "idempotent": "yes"}]}, "spec.capabilities[0].idempotent"),
        ({"capabilities": [{"name": "a", "version": "1.0"}]}, "spec.capabilities[0].version"),
        ({"capabilities": [{"name": "a", "tags": ["b", 1]}]}, "spec.capabilities[0].tags[1]"),
        ({"version": "v1.0.0"}, "spec.version"),
        ({"version": "1.0.0-01"}, "spec.version"),
        ({"communication": {"mindbus_queue": "я" * 128}}, "spec.communication.mindbus_queue"),
        ({"communication": {"mindbus_queue": "a\x1bb"}}, "spec.communication.mindbus_queue"),
        ({"communication": {"mindbus_queue": ""}}, "spec.communication.mindbus_queue"),
        ({"resources": {"max_concurrent_tasks": 0}}, "spec.resources.max_concurrent_tasks"),
        ({"resources": {"max_concurrent_tasks": 100_001}}, "spec.resources.max_concurrent_tasks"),
        ({"resources": {"max_concurrent_tasks": True}}, "spec.resources.max_concurrent_tasks"),
        ({"resources": {"max_concurrent_tasks": 2.0}}, "spec.resources.max_concurrent_tasks"),
    ],
)
def test_one_wrong_field_is_one_fault(spec: dict[str, Any], path: str) -> None:
    with pytest.raises(DocumentError) as error:
        NodePassport.from_dict(small(**spec))
    assert faults(error) == [path]


@pytest.mark.parametrize(
    ("time", "good"),
    [
        ("2025-12-15T10:00:00Z", True),
        ("2025-12-15T10:00:00.123456789Z", True),
        ("2025-12-15t10:00:00z", True),
        ("2025-12-15 10:00:00+03:00", True),
        ("2016-12-31T23:59:60Z", True),
        ("2025-12-15T10:00:00", False),
        ("2025-02-30T10:00:00Z", False),
        ("2025-12-15", False),
        ("2025-12-15T10:00:00+25:00", False),
        ("٢٠٢٥-12-15T10:00:00Z", False),
        ("2025-12-15T10:00:00Z\n", False),
    ],
)
def test_times_are_rfc_3339(time: str, good: bool) -> None:
    document = {**small(), "status": {"registered_at": time}}
    if good:
        assert NodePassport.from_dict(document)["status"]["registered_at"] == time
    else:
        with pytest.raises(DocumentError, match="RFC 3339"):
            NodePassport.from_dict(document)


def test_unknown_fields_are_kept_at_every_level_and_warned_of() -> None:
    text = """\
apiVersion: ai-team.dev/v1
kind: NodePassport
extra: 1
metadata: {name: a, owner: {team: x}}
spec:
  capabilites: []
  capabilities: [{name: b, cost: 0.5}]
  communication: {grpc: "host:1"}
  resources: {gpu: 2, memory: 4Gi}
status: {mood: [good], conditions: [{type: Ok, status: "True", since: never}]}
"""
    passport = NodePassport.parse(text)
    assert [(fault.path, fault.line) for fault in passport.warnings] == [
        ("extra", 3),
        ("metadata.owner", 4),
        ("spec.capabilites", 6),
        ("spec.capabilities[0].cost", 7),
        ("spec.communication.grpc", 8),
        ("status.mood", 10),
        ("status.conditions[0].since", 10),
    ], "extra resources are welcome, everything else unknown is named"
    assert 'did you mean "capabilities"?' in passport.warnings[2].message
    for again in (
        NodePassport.parse(passport.to_yaml()),
        NodePassport.parse(passport.to_json()),
        NodePassport.from_stored(passport.to_json()),
    ):
        assert json.dumps(again.to_dict()) == json.dumps(passport.to_dict())
        assert {fault.path for fault in again.warnings} == {fault.path for fault in passport.warnings}
    assert passport.resources["memory"] == "4Gi"


def test_with_status_makes_a_new_passport_and_checks_only_the_change(founding: NodePassport) -> None:
    busy = founding.with_status(state="busy", active_tasks=3)
    assert (busy.state, busy["status"]["active_tasks"]) == ("busy", 3)
    assert busy["status"]["registered_at"] == "2025-12-15T10:00:00Z"
    assert founding.state == "ready"
    assert "state" not in busy.with_status(state=None)["status"]
    with pytest.raises(DocumentError) as error:
        founding.with_status(state="tired", active_tasks=-1)
    assert faults(error) == ["status.state", "status.active_tasks"]


def test_with_metadata_and_with_spec_and_replace(founding: NodePassport) -> None:
    changed = founding.with_metadata(uid="u-1", generation=2, labels={"role": "editor"})
    assert (changed.uid, changed.generation, changed.labels) == ("u-1", 2, {"role": "editor"})
    assert changed.annotations == founding.annotations
    assert founding.with_spec(capabilities=[{"name": "sing"}]).capability("write_article") is None
    assert "status" not in founding.replace(status=None)
    assert founding.replace(metadata={"name": "b"}).key == "default/b"
    with pytest.raises(DocumentError, match="required, and missing"):
        founding.with_metadata(name=None)
    with pytest.raises(DocumentError, match=r"metadata\.labels"):
        founding.with_metadata(labels={"a b": "c"})


def test_a_looser_document_from_the_store_can_be_updated() -> None:
    raw = json.dumps(
        {**small(version="1.0"), "metadata": {"name": "a", "labels": {"роль": "писатель"}}}
    ).encode()
    passport = NodePassport.from_stored(raw)
    assert passport.with_status(state="busy").labels == {"роль": "писатель"}
    assert passport.with_metadata(uid="u").version == "1.0"


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"name": "a", "labels": {"a": 1}}},
        {"metadata": {"name": "a", "uid": 1}},
        {"metadata": {"name": "a", "generation": "1"}},
        {"metadata": []},
        {"spec": {"capabilities": [{"name": 1}]}},
        {"spec": {"capabilities": [{"name": "a", "input_schema": 5}]}},
        {"spec": {"capabilities": [{"name": "a", "timeout": "x"}]}},
        {"spec": {"resources": {"max_concurrent_tasks": "many"}}},
        {"spec": {"version": 1.0}},
        {"status": {"state": 5}},
        {"status": 1},
        {"kind": "Pod"},
    ],
)
def test_from_the_store_what_would_break_a_promised_type_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DocumentError):
        NodePassport.from_stored(json.dumps({**small(), **change}).encode())


def test_cyrillic_goes_through_unharmed_in_every_form() -> None:
    passport = NodePassport.from_dict(
        {
            **small(capabilities=[{"name": "a", "description": "Написание статей, 🐝 и ещё"}]),
            "metadata": {"name": "a", "annotations": {"описание": "Ёж"}},
        }
    )
    assert "Написание статей, 🐝 и ещё".encode() in passport.to_json()
    assert NodePassport.from_stored(passport.to_json()) == passport
    assert NodePassport.parse(passport.to_yaml()) == passport
    assert "Написание" in passport.to_yaml()


def test_a_file_with_several_documents_is_checked_document_by_document(tmp_path: Path) -> None:
    file = tmp_path / "nodes.yaml"
    one = yaml_with("  type: agent\n")
    file.write_text(f"{one}---\n{one.replace('agent', '5')}---\n{one.replace('writer-001', 'b')}---\n{one}")
    (report,) = validate_files([file])
    assert [passport.name for passport in report.passports] == ["writer-001", "b", "writer-001"]
    assert [(fault.path, fault.line) for fault in report.faults] == [("spec.type", 13), ("metadata.name", 25)]
    assert not report.ok
    assert report.lines()[0].startswith(f"{file}:13:3: spec.type: expected a name")
    with pytest.raises(DocumentError, match="expected one document, found 4"):
        NodePassport.load(file)


def test_warnings_of_files_come_as_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(yaml_with("  typo: 1\n"))
    (report,) = validate_files([file])
    assert report.ok
    assert report.warning_lines() == [
        f'{file}:6:3: spec.typo: unknown field, did you mean "type"?; it is kept'
    ]


def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    missing, empty = tmp_path / "missing.yaml", tmp_path / "empty.yaml"
    empty.write_text("# nothing here\n")
    reports = validate_files([missing, tmp_path, empty, "a\0b"])
    assert [report.faults[0].message for report in reports] == [
        "cannot read the file: No such file or directory",
        "this is not a regular file: name a file of YAML or JSON",
        "expected a passport, found no document",
        "cannot read the file: embedded null byte",
    ]


def test_a_datetime_with_a_zone_becomes_text() -> None:
    from datetime import UTC, datetime

    document = {**small(), "status": {"registered_at": datetime(2025, 12, 15, 10, tzinfo=UTC)}}
    assert NodePassport.from_dict(document)["status"]["registered_at"] == "2025-12-15T10:00:00Z"
    document["status"]["registered_at"] = datetime(2025, 12, 15)  # noqa: DTZ001  # the point of this test
    with pytest.raises(DocumentError, match="without a time zone"):
        NodePassport.from_dict(document)
