"""Values with expressions in them keep their types, escape, and never grow beyond their limit."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roster.cards.templates import Template, TooLargeError, measure, read_template
from roster.errors import ExpressionError
from roster.passport.rules import Report

SCOPE: dict[str, Any] = {
    "input": {"topic": "bees", "n": 3},
    "draft": {"text": "All about bees", "tags": ["a", "б"]},
    "nothing": None,
    "share": 0.5,
    "yes": True,
}


def template(value: Any) -> Template:
    report = Report()
    made = read_template(value, ("params",), report)
    assert report.faults == []
    return made


def filled(value: Any, **options: Any) -> Any:
    return template(value).fill(SCOPE, step="write", field="params", **options)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("${input.topic}", "bees"),
        ("${input.n}", 3),
        ("${draft.tags}", ["a", "б"]),
        ("${nothing}", None),
        ("${share}", 0.5),
        ("${input.n > 2}", True),
        ("${input['topic']}", "bees"),
        ('${"}"}', "}"),
        ("about ${input.topic}", "about bees"),
        ("${input.topic}${input.topic}", "beesbees"),
        (
            "${input.topic} x ${input.n} = ${draft.tags} ${nothing} ${share} ${yes}",
            'bees x 3 = ["a", "б"] null 0.5 true',
        ),
        (" ${input.n}", " 3"),
        ("$${input.topic}", "${input.topic}"),
        ("$${", "${"),
        ("$$${input.n}", "$${input.n}"),
        ("a $${b} ${input.n}", "a ${b} 3"),
        ("$ $$ {} {{x}} $x }", "$ $$ {} {{x}} $x }"),
        ("", ""),
        (5, 5),
        (None, None),
        ({"a": ["${input.n}", {"b": "${input.topic}!"}], "${c}": 1}, {"a": [3, {"b": "bees!"}], "${c}": 1}),
        ([], []),
        ({}, {}),
    ],
)
def test_a_value_is_filled_in(value: Any, expected: Any) -> None:
    found = filled(value)
    assert found == expected
    assert type(found) is type(expected)


def test_what_it_reads_is_known_with_its_place() -> None:
    made = template({"a": "${x.y} and ${z}", "b": ["${x.y > w}", "plain"]})
    assert [(path, str(reference)) for path, reference in made.reads] == [
        (("a",), "x.y"),
        (("a",), "z"),
        (("b", 0), "x.y"),
        (("b", 0), "w"),
    ]
    assert list(made.holes()) == [("a",), ("b", 0)]
    assert made.with_holes(None) == {"a": None, "b": [None, "plain"]}
    assert not made.constant
    assert not made.whole
    assert template("${x}").whole
    assert template({"a": "$${x}"}).value == {"a": "${x}"}


def test_what_has_no_value_names_the_step_and_the_field() -> None:
    with pytest.raises(ExpressionError) as error:
        filled({"deep": [{"x": "about ${input.topics}"}]})
    assert str(error.value) == (
        'step write: params.deep[0].x: input has no field "topics", did you mean "topic"?'
    )


def test_a_text_that_cannot_be_read_is_reported_with_its_place() -> None:
    report = Report({("params", "a"): (3, 7)})
    made = read_template({"a": "x ${", "b": "${1 +}", "c": "${ok}"}, ("params",), report)
    assert [(fault.path, fault.line) for fault in report.faults] == [("params.a", 3), ("params.b", None)]
    assert "${ is not closed" in report.faults[0].message
    assert [str(reference) for _, reference in made.reads] == ["ok"]


def test_a_value_that_grows_is_stopped_before_it_is_built() -> None:
    scope = {"x": "y" * 1_000_000}
    begin = time.monotonic()
    for value in (
        "${x}" * 10_000,
        ["${x}"] * 10_000,
        {str(n): "${x}" for n in range(10_000)},
        "z${x}${x}${x}",
    ):
        made = template(value)
        with pytest.raises(ExpressionError, match="larger than 2000000 bytes"):
            made.fill(scope, step="s", field="params", limit=2_000_000)
    with pytest.raises(ExpressionError, match="larger than 10 bytes"):
        template("constant text").fill({}, step="s", field="params", limit=10)
    assert time.monotonic() - begin < 5


def test_ten_thousand_escapes_and_expressions_are_read_in_time() -> None:
    begin = time.monotonic()
    assert template("$${" * 300_000).value == "${" * 300_000
    made = template("${input.n}," * 20_000)
    assert made.fill(SCOPE, step="s", field="f") == "3," * 20_000
    assert time.monotonic() - begin < 10


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_what_has_no_expression_stays_as_it_is(value: Any) -> None:
    report = Report()
    made = read_template(value, (), report)
    if "${" not in str(value):
        assert report.faults == []
        assert made.constant
        assert made.value == value


@given(st.text(), JSON)
def test_escaped_text_comes_back_whatever_stands_around_it(text: str, value: Any) -> None:
    escaped = text.replace("${", "$${")
    assert template(escaped + " ${v}").fill({"v": "!"}, step="s", field="f") == text + " !"
    assert template("${v}").fill({"v": value}, step="s", field="f") is value


@given(JSON)
def test_the_measure_is_near_the_length_of_the_json(value: Any) -> None:
    import json

    size = measure(value, 10**9)
    exact = len(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    assert size <= 6 * exact + 30
    assert exact <= 7 * size + 30
    with pytest.raises(TooLargeError):
        measure([value, "x"], 2)
