"""Every example of docs/passport-spec.md is true."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pytest
import yaml
from tests.passport.samples import FOUNDING, ROOT, small

from roster.errors import DocumentError
from roster.passport import NodePassport, Selector, VersionRange
from roster.passport import fields as table
from roster.passport import limits as bounds

SPEC = ROOT / "docs" / "passport-spec.md"


@dataclass(frozen=True)
class Block:
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"line {self.line}"


def blocks() -> list[Block]:
    text = SPEC.read_text()
    return [
        Block(text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for found in re.finditer(r"^```([a-z ]+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def of_kind(kind: str) -> list[Block]:
    return [block for block in blocks() if block.kind == kind]


def with_following(kind: str) -> list[tuple[Block, Block]]:
    every = blocks()
    return [(block, every[index + 1]) for index, block in enumerate(every) if block.kind == kind]


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    kinds = {block.kind for block in blocks()}
    assert kinds == {
        "yaml",
        "yaml invalid",
        "yaml warns",
        "yaml shorthand",
        "yaml selector",
        "text",
        "json",
        "python",
    }
    assert SPEC.read_text().count("```") == 2 * len(blocks())


@pytest.mark.parametrize("block", of_kind("yaml"), ids=str)
def test_a_yaml_block_is_a_passport_without_warnings(block: Block) -> None:
    passport = NodePassport.parse(block.text)
    assert passport.warnings == ()
    assert NodePassport.from_stored(passport.to_json()) == passport
    assert NodePassport.parse(passport.to_yaml()) == passport


@pytest.mark.parametrize(("block", "expected"), with_following("yaml invalid"), ids=str)
def test_an_invalid_block_has_exactly_the_faults_under_it(block: Block, expected: Block) -> None:
    with pytest.raises(DocumentError) as error:
        NodePassport.parse(block.text, source="x")
    assert expected.kind == "text"
    assert [line.removeprefix("x:") for line in error.value.lines()] == [
        line.lstrip() for line in expected.text.splitlines()
    ]


@pytest.mark.parametrize(("block", "expected"), with_following("yaml warns"), ids=str)
def test_a_block_that_warns_has_exactly_the_warnings_under_it(block: Block, expected: Block) -> None:
    warnings = DocumentError("x", NodePassport.parse(block.text).warnings).lines()
    assert [line.removeprefix("x:") for line in warnings] == expected.text.splitlines()


@pytest.mark.parametrize(("block", "expected"), with_following("yaml shorthand"), ids=str)
def test_a_shorthand_stands_for_the_json_schema_under_it(block: Block, expected: Block) -> None:
    schema = yaml.safe_load(block.text)
    (capability,) = NodePassport.from_dict(
        small(capabilities=[{"name": "a", "input_schema": schema}])
    ).capabilities
    assert capability.input_json_schema == json.loads(expected.text)


@pytest.mark.parametrize(("block", "expected"), with_following("yaml selector"), ids=str)
def test_a_selector_in_map_form_is_the_text_under_it(block: Block, expected: Block) -> None:
    assert str(Selector.parse(yaml.safe_load(block.text))) == expected.text.strip()


def test_the_first_example_is_the_founding_documents() -> None:
    assert NodePassport.parse(of_kind("yaml")[0].text) == NodePassport.load(FOUNDING)


def test_the_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for block in of_kind("python"):
        exec(compile(block.text, f"passport-spec.md:{block.line}", "exec"), {})


def test_the_table_of_version_ranges_is_true() -> None:
    section = SPEC.read_text().split("## 10.")[1].split("## 11.")[0].replace("\\|", "¦")
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in section.splitlines()
        if row.startswith("| `")
    ]
    checked = 0
    for ranges, _, canonical in rows:
        for one, says in zip(
            re.findall("`([^`]+)`", ranges), re.findall("`([^`]+)`", canonical) * 9, strict=False
        ):
            found = str(VersionRange.parse(one.replace("¦", "|")))
            assert found == says or (canonical.count("`") > 2 and found in canonical)
            checked += 1
    assert checked >= 8


def test_every_field_of_the_table_is_in_the_specification() -> None:
    text = SPEC.read_text()
    for rule in (
        table.PASSPORT,
        table.METADATA,
        table.SPEC,
        table.CAPABILITY,
        table.COMMUNICATION,
        table.RESOURCES,
    ):
        for name in rule.fields:
            assert f"| `{name}` |" in text, name
    for name in table.STATUS.fields:
        assert f"| `{name}` |" in text, name
    for name in table.CONDITION.fields:
        assert f"`{name}`" in text, name


def test_the_limits_are_those_of_the_code() -> None:
    text = SPEC.read_text()
    assert f"| a file | {bounds.FILE.bytes // 2**20} MiB, {bounds.FILE.documents} documents |" in text
    assert f"| a passport in the store | {bounds.STORED.bytes // 1024} KiB |" in text
    assert f"| maps and lists inside each other | {bounds.FILE.depth} |" in text
    assert (
        f"| nodes of a document, aliases written out | {bounds.FILE.nodes:,} |".replace(",000", " 000")
        in text
    )
    assert f"| a key | {bounds.MAX_KEY_CHARS} characters |" in text
    assert f"| a number | {bounds.MAX_NUMBER_CHARS} characters |" in text
    assert f"1 to {table.MAX_CONCURRENT_TASKS:,}".replace(",", " ") in text
    assert f"at most {table.MAX_TIMEOUT:,}".replace(",", " ") in text
