"""Cards that somebody wrote to do harm are refused quickly, with a fault, and nothing is built from them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roster.cards import Limits, ProcessCard, examine
from roster.cards.drawing import picture
from roster.cards.fields import steps
from roster.cards.mermaid import to_mermaid
from roster.cards.svg import to_svg
from roster.errors import DocumentError

# Seconds: several times what a busy machine was seen to need.
PATIENCE = 20


def refused(text: str | bytes, says: str, **options: Any) -> None:
    begin = time.monotonic()
    report = examine(text, source="bad", **options)
    assert time.monotonic() - begin < PATIENCE
    assert report.card is None
    assert says in "\n".join(report.lines())
    assert all(line.isprintable() for line in (*report.lines(), *report.warning_lines()))


def nested(depth: int) -> str:
    return "steps: " + "[{type: foreach, items: [1], do: " * depth + "{action: x}" + "}]" * depth


def aliases(levels: int) -> str:
    lines = [f"b{n}: &b{n} [*b{n - 1}, *b{n - 1}, *b{n - 1}]" for n in range(1, levels)]
    return "\n".join(["b0: &b0 [x, x, x]", *lines, "steps: [{action: x}]"])


STRANGERS = ", ".join(f"unknown{n}: 1" for n in range(5000))
HOSTILE: list[tuple[str | bytes, str]] = [
    ("# " + "x" * (10 * 2**20) + "\nsteps: [{action: x}]", "larger than 1024 KiB"),
    ("steps: [{action: x, params: {a: '" + "${x}" * 300_000 + "'}}]", "larger than 1024 KiB"),
    (nested(11), "steps nested deeper than 10"),
    (nested(10_000), "nested deeper than"),
    ("steps: " + "[" * 100_000, "nested deeper than"),
    (aliases(40), "aliases written out"),
    ("steps: &s [{type: foreach, items: [1], do: *s}]", "stands inside what it names"),
    ("steps: !!python/object/apply:os.system ['true']", "is not allowed"),
    ("steps: [{action: x, params: {a: '${" + "(" * 100 + "'}}]", "is not closed"),
    ("steps: [{action: x, params: {a: '${" + "(" * 100 + "}'}}]", "deeper than 32"),
    ("steps: [{action: x, params: {a: '${" + "(" * 400 + "'}}]", "more than 200 words"),
    ("steps: [{condition: '" + "!" * 100 + "a', then: complete}]", "deeper than 32"),
    ("steps: [{condition: '" + "a && " * 10_000 + "a', then: complete}]", "more than 1024 bytes"),
    ("steps: [{condition: 'a.matches(\"(a+)+$\")', then: complete}]", "there are no functions"),
    ("steps: [{condition: '[1,2].map(x, [1,2].map(y, x))', then: complete}]", "expected &&"),
    ('steps: [{action: x, id: "\\x1b]0;owned\\x07"}]', "steps[0].id: expected text"),
    ('steps: [{action: x, next: "\\u202e\\x9b31m"}]', "steps[0].next: expected"),
    ('{"steps": [{"action": "x", "id": "a\\ud800"}]}', "surrogate"),
    (b"\xff\xfe\x00", "UTF-16"),
    ("steps: [{action: x, timeout: " + "9" * 100 + "}]", "steps[0].timeout: expected a duration"),
    ("steps: [{action: x, timeout: '" + "9" * 1000 + "h'}]", "steps[0].timeout: expected a duration"),
    ("steps: [{action: x, max_visits: " + "9" * 90 + "}]", "steps[0].max_visits: expected"),
    ("steps: [{type: parallel, branches: [" + "{action: x}," * 101 + "]}]", "more than 100 steps"),
    ("steps: [{" + STRANGERS + "}]", "expected a step with"),
    ("steps: [" + "{id: a, acton: x}," * 90 + "]", "did you mean"),
    ('metadata: {name: "a\\nb"}\nsteps: [{action: x}]', "metadata.name: expected text of 1 to 255"),
]


@pytest.mark.parametrize(("text", "says"), HOSTILE, ids=[str(n) for n in range(len(HOSTILE))])
def test_a_hostile_card_is_refused_in_time(text: str | bytes, says: str) -> None:
    refused(text, says)


def test_a_hundred_thousand_steps_are_refused_by_whichever_limit_is_met_first() -> None:
    text = "steps: [" + "{action: x}," * 100_000 + "]"
    refused(text, "larger than 1024 KiB")
    refused(text, "more than 20000 nodes", limits=Limits(file=10**8))
    refused(text, "more than 100 steps", limits=Limits(file=10**8, nodes=10**6))


def test_faults_are_told_of_not_retold() -> None:
    step = "- {action: 5, next: nowhere, timeout: x, params: [1], output: '', max_visits: 0}\n"
    report = examine("steps:\n" + step * 900, limits=Limits(steps=1000))
    assert len(report.faults) == 1001
    assert report.faults[-1].message == "more than 1000 faults: the rest is not shown"


COUNT = 3000
SHAPES = {
    "chain": ("- {{id: s{n}, action: x, params: {{a: '${{v{before}}}'}}, output: v{n}}}\n", ""),
    "loops": ("- {{id: s{n}, condition: '${{input.a}}', then: s{half}}}\n", ""),
    "branches": ("  - {{action: x, output: v{n}}}\n", "- type: parallel\n  branches:\n"),
    "conditions": ("- {{id: s{n}, condition: '${{input.a}}', then: s{last}, else: s{after}}}\n", ""),
}


@pytest.mark.parametrize("shape", list(SHAPES))
def test_thousands_of_steps_are_checked_in_time_where_the_limits_allow_them(shape: str) -> None:
    line, first = SHAPES[shape]
    last = COUNT - 1
    lines = [
        line.format(n=n, before=max(0, n - 1), half=n // 2, after=min(n + 1, last), last=last)
        for n in range(COUNT if shape != "conditions" else last)
    ]
    end = f"- {{id: s{last}, action: x}}\n" if shape == "conditions" else ""
    limits = Limits(steps=10_000, nodes=10**6, file=10**7)
    begin = time.monotonic()
    text = f"variables: {{v0: 1}}\nsteps:\n{first}{''.join(lines)}{end}"
    report = examine(text, source="big", limits=limits)
    assert report.lines() == []
    assert report.card is not None
    assert len(picture(report.card).nodes) >= COUNT
    assert to_svg(report.card).endswith("</svg>")
    assert time.monotonic() - begin < PATIENCE


def test_nesting_up_to_the_highest_limit_is_read_checked_and_drawn() -> None:
    limits = Limits().changed("nesting=32")
    report = examine(nested(32), limits=limits)
    assert report.lines() == []
    assert report.card is not None
    assert to_mermaid(report.card).count("subgraph") == 32
    assert "</svg>" in to_svg(report.card)
    assert report.card.steps == ProcessCard.parse(nested(32), limits=limits).steps


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
JSON = st.recursive(
    SCALARS | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(sorted({name for rule in steps(Limits()).values() for name in rule.fields}))
WORDS = st.sampled_from([*steps(Limits()), "a", "b", "complete", "${v}", "${v} > 1", "5s", "abort", "any"])
STEPS = st.recursive(
    st.dictionaries(FIELDS, WORDS | JSON, max_size=6),
    lambda inner: st.builds(
        lambda step, key, inside: {**step, key: inside},
        inner,
        st.sampled_from(["branches", "do"]),
        st.lists(inner, max_size=3),
    ),
    max_leaves=4,
)
CARDS = st.fixed_dictionaries(
    {"steps": st.lists(STEPS, max_size=5)}, optional={"variables": JSON, "timeout": JSON, "name": JSON}
)


@given(CARDS)
def test_whatever_stands_in_a_card_it_is_read_or_refused(document: dict[str, Any]) -> None:
    report = examine(json.dumps(document))
    assert all(line.isprintable() for line in (*report.lines(), *report.warning_lines()))
    try:
        card = ProcessCard.from_dict(document)
    except DocumentError as error:
        assert len(error.faults) > 0  # noqa: PT017 - most of these are refused, and that is right
        assert report.faults
        return
    assert to_mermaid(card).startswith("flowchart TD\n")
    assert to_svg(card).endswith("</svg>")


@given(st.text(max_size=200))
def test_any_text_is_a_card_or_is_refused(text: str) -> None:
    report = examine(text)
    assert (report.card is None) == bool(report.faults)
