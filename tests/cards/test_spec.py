"""Every example of docs/cards-spec.md is true."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from tests.cards.test_reading import FOUNDING
from tests.docs.markdown import Block, Document

from roster._durations import parse_duration
from roster.cards import Limits, ProcessCard, examine, fields
from roster.cards.expressions import Expression
from roster.cards.templates import read_template
from roster.errors import ExpressionError
from roster.passport.rules import Report

PAGE = Document.read("docs/cards-spec.md")


def of_kind(kind: str) -> list[Block]:
    return [block for block in PAGE.blocks if f"{block.language} {block.argument}".strip() == kind]


def with_following(kind: str) -> list[tuple[Block, Block]]:
    every = PAGE.blocks
    chosen = of_kind(kind)
    return [(block, every[every.index(block) + 1]) for block in chosen]


def tables(*heading: str) -> list[list[list[str]]]:
    return [table[1:] for table in PAGE.tables if table[0] == list(heading)]


def bare(cell: str) -> str:
    return cell.strip("`").replace("\\|", "|")


def scope() -> dict[str, Any]:
    (block,) = of_kind("yaml values")
    found = yaml.safe_load(block.text)
    assert isinstance(found, dict)
    return found


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    kinds = {f"{block.language} {block.argument}".strip() for block in PAGE.blocks}
    assert kinds == {"yaml", "yaml invalid", "yaml warns", "yaml values", "text", "python"}


@pytest.mark.parametrize("block", of_kind("yaml"), ids=str)
def test_a_yaml_block_is_a_card_without_faults_and_warnings(block: Block) -> None:
    report = examine(block.text, source=str(block))
    assert [*report.lines(), *report.warning_lines()] == []


def test_the_first_example_is_the_founding_documents() -> None:
    assert ProcessCard.parse(of_kind("yaml")[0].text).document == ProcessCard.parse(FOUNDING).document


@pytest.mark.parametrize(("block", "expected"), with_following("yaml invalid"), ids=str)
def test_an_invalid_block_has_exactly_the_faults_under_it(block: Block, expected: Block) -> None:
    assert expected.language == "text"
    lines = [line.removeprefix("x:") for line in examine(block.text, source="x").lines()]
    assert lines == expected.text.splitlines()


@pytest.mark.parametrize(("block", "expected"), with_following("yaml warns"), ids=str)
def test_a_block_that_warns_has_exactly_the_warnings_under_it(block: Block, expected: Block) -> None:
    report = examine(block.text, source="x")
    assert report.lines() == []
    assert [line.removeprefix("x:") for line in report.warning_lines()] == expected.text.splitlines()


def test_the_tables_of_expressions_are_true() -> None:
    values, conditions = tables("written", "is")
    for written, expected in values:
        report = Report()
        found = read_template(bare(written), (), report).fill(scope(), step="s", field="f")
        assert (report.faults, found) == ([], json.loads(bare(expected))), written
    for written, expected in conditions:
        found = Expression.condition(bare(written)).holds(scope(), step="s", field="when")
        assert found is json.loads(bare(expected)), written
    (errors,) = tables("written", "error")
    for written, says in errors:
        with pytest.raises(ExpressionError) as error:
            read_template(bare(written), (), Report()).fill(scope(), step="s", field="f")
        assert error.value.reason == bare(says)


def test_the_tables_name_every_field() -> None:
    named = {
        word for table in PAGE.tables for row in table[1:] for word in re.findall(r"`([A-Za-z_]+)`", row[0])
    }
    prose = set(re.findall(r"`([a-z_]+)`", PAGE.prose))
    rules = [
        fields.card(),
        fields.METADATA,
        fields.spec(Limits()),
        fields.retry(Limits()),
        *fields.steps(Limits()).values(),
    ]
    for rule in rules:
        for name in rule.fields:
            assert name in named or (name == "message" and name in prose), name
    for kind in fields.steps(Limits()):
        assert kind in prose


def test_the_table_of_limits_is_that_of_the_code() -> None:
    (rows,) = tables("name", "default", "of what")
    assert [bare(row[0]) for row in rows] == list(Limits.__slots__)
    for name, default, _ in rows:
        text = f"{bare(name)}={default}"
        changed = Limits().changed(text)
        assert getattr(changed, bare(name)) == getattr(Limits(), bare(name)), text
    assert parse_duration("7d") == Limits().total_time


def test_the_table_of_older_ways_is_that_of_the_code() -> None:
    (rows,) = tables("written", "read as")
    text = " ".join(cell for row in rows for cell in row)
    assert {f"type: {old}" for old in fields.ALIASES} <= set(re.findall("`([^`]+)`", text))
    for name in fields.TELLING:
        assert f"`{name}`" in text


def test_the_python_runs() -> None:
    for block in of_kind("python"):
        exec(compile(block.text, str(block), "exec"), {})
