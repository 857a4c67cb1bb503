"""Every fault of a card is named with its line before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cards.walker import Failed, Walk

from roster.cards import ActionStep, Limits, ProcessCard, check, examine
from roster.cards.offers import check_offers
from roster.cards.subcards import check_cards
from roster.errors import DocumentError, ExpressionError, Fault
from roster.passport import Capability


def found(text: str, **options: Any) -> list[str]:
    return [line.removeprefix("c:") for line in examine(text, source="c", **options).lines()]


def warned(text: str) -> list[str]:
    report = examine(text, source="c")
    assert report.lines() == []
    return [line.removeprefix("c:") for line in report.warning_lines()]


def cases() -> list[tuple[str, list[str]]]:
    """Return the cards of faults.txt, each with the beginnings of its faults."""
    out = []
    for block in (Path(__file__).parent / "faults.txt").read_text().split("\n\n")[1:]:
        lines = block.strip("\n").split("\n")
        card = "\n".join(line for line in lines if not line.startswith("=> "))
        out.append(
            ("" if card == "(nothing)" else card, [line[3:] for line in lines if line.startswith("=> ")])
        )
    return out


FAULTS = cases()


@pytest.mark.parametrize(("text", "expected"), FAULTS, ids=[str(n) for n in range(len(FAULTS))])
def test_a_fault_is_named_with_its_place_and_what_was_expected(text: str, expected: list[str]) -> None:
    lines = found(text)
    assert len(lines) == len(expected), lines
    for line, begins in zip(lines, expected, strict=True):
        assert line.lstrip().startswith(begins), line
        assert line.isprintable()


def test_all_faults_of_a_card_are_listed_at_once() -> None:
    text = """\
steps:
  - id: a
    action: x
    params: {v: "${v}", w: "${1 +}"}
    next: c
  - id: b
    action: x
    retry: {max_attempts: 99}
  - id: c
    condition: "${input.x}"
    then: a
    else: cc
"""
    assert [": ".join(line.split(": ")[:2]) for line in found(text)] == [
        "4:14: steps[0].params.v",
        "4:25: steps[0].params.w",
        "6:5: steps[1]",
        "8:13: steps[1].retry.max_attempts",
        "12:5: steps[2].else",
    ]
    with pytest.raises(DocumentError) as error:
        ProcessCard.parse(text)
    assert len(error.value.faults) == 3  # what reading finds; check finds the rest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "steps:\n- {id: a, condition: '${input.x}', then: b, else: c}\n- {id: b, action: x, output: v}\n"
            "- {id: c, action: x, params: {v: '${v}'}}\n",
            ['4:31: steps[2].params.v: "v" is not set on every way here, such as "a" -> "c"'],
        ),
        (
            "steps:\n- {id: w, action: x, params: {f: '${r.f}'}, when: '${input.f}'}\n- {id: r, action: x, output: r}\n"
            "- {condition: '${r.ok}', then: complete, else: w}\n",
            ['2:31: steps[0].params.f: "r" is not set on every way here, such as "w"'],
        ),
        (
            "steps:\n- {id: a, action: x, output: v, when: '${input.x}'}\n- {id: b, action: x, params: {v: '${v}'}}\n",
            ['3:31: steps[1].params.v: "v" is not set on every way'],
        ),
        (
            "steps:\n- {id: p, type: parallel, wait_for: any, branches: [{action: x, output: v}, {action: x, output: w}]}\n"
            "- {id: b, action: x, params: {v: '${v}'}}\n",
            ['3:31: steps[1].params.v: "v" is not set on every way here, such as "p" -> "p.2.1" -> "b"'],
        ),
        (
            "steps: [{type: parallel, branches: [{action: x, output: v}, {action: x, output: v}]}]",
            ['1:61: steps[0].branches[1]: "v" is set in branch 1 too'],
        ),
        ("steps: [{action: x, parms: {}}]", ['1:21: steps[0].parms: unknown field, did you mean "params"?']),
        (
            "timeout: 1m\nsteps: [{action: x, timeout: 2m}]",
            ["2:21: steps[0].timeout: 120 seconds is longer than a run may take in all (60)"],
        ),
    ],
)
def test_what_is_allowed_but_hardly_meant_is_warned_of(text: str, expected: list[str]) -> None:
    lines = warned(text)
    assert len(lines) == len(expected), lines
    for line, begins in zip(lines, expected, strict=True):
        assert line.startswith(begins), line


@pytest.mark.parametrize(
    "text",
    [
        # both branches of a condition set it
        "steps:\n- {condition: '${input.x}', then: a, else: b}\n- {id: a, action: x, output: v, next: c}\n"
        "- {id: b, action: x, output: v}\n- {id: c, action: x, params: {v: '${v}'}}\n",
        # every branch of a parallel runs, so one is enough
        "steps:\n- {type: parallel, branches: [{action: x, output: v}, {action: y, output: w}]}\n"
        "- {action: x, params: {v: '${v} ${w}'}}\n",
        # two of three end: what two branches set is set
        "steps:\n- {type: parallel, wait_for: 2, branches: [{action: x, output: v}, {action: y, output: v}, {action: z}]}\n"
        "- {action: x, params: {v: '${v}'}}\n",
        # an item and its number, only in the body
        "steps: [{type: foreach, items: '${input.xs}', as: x, do: {action: a, params: {x: '${x} ${x_index}'}}, output: ys}, "
        "{action: b, params: {y: '${ys}'}}]",
        # the output of another card, of a wait and of a person
        "steps: [{type: subprocess, card: o.yaml, output: o}, {type: wait, event: e, output: e}, "
        "{type: human_checkpoint, message: ok, output: h}, {action: b, params: {y: '${o} ${e} ${h}'}}]",
        # a first value, even null
        "variables: {v: null}\nsteps: [{action: x, params: {v: '${v}'}}]",
        # branches that race for it
        "steps: [{type: parallel, wait_for: any, branches: [{action: x, output: v}, {action: y, output: v}]}]",
        "steps: [{action: x, params: {v: '${input.a} ${run.id} ${task_id} $${none}'}}]",
        # set before a loop and changed in it
        "steps:\n- {id: a, action: x, output: v}\n- {id: b, action: x, params: {v: '${v}'}, output: v}\n"
        "- {condition: '${v.ok}', then: complete, else: b}\n",
    ],
)
def test_what_every_way_sets_is_no_fault_and_no_warning(text: str) -> None:
    assert warned(
        text.replace("output: v}, {action: y, output: v}", "output: v}, {action: y, output: v}")
    ) in (
        [],
        ['2:68: steps[0].branches[1]: "v" is set in branch 1 too: the later branch in the card counts'],
    )


def test_the_limits_can_be_changed() -> None:
    three = "steps: [{action: x}, {action: x}, {action: x}]"
    nested = "steps: [{type: foreach, items: [1], do: {type: foreach, items: [1], do: {action: x}}}]"
    assert found(three, limits=Limits(steps=3)) == []
    assert "more than 2 steps in one card" in found(three, limits=Limits(steps=2))[0]
    assert found(nested, limits=Limits(nesting=2)) == []
    assert "steps nested deeper than 1" in found(nested, limits=Limits(nesting=1))[0]
    assert found("steps: [{action: x, retry: {max_attempts: 20}}]", limits=Limits(attempts=20)) == []
    assert "from 1 to 5" in found("steps: [{action: x, max_visits: 6}]", limits=Limits(max_visits=5))[0]
    assert "at most 60 seconds" in found("steps: [{action: x, timeout: 2m}]", limits=Limits(total_time=60))[0]
    big = "variables: {v: '" + "x" * 2000 + "'}\nsteps: [{action: x}]"
    assert "larger than 1000 bytes" in found(big, limits=Limits(variable=1000))[0]
    assert "larger than 1 KiB" in found(big, limits=Limits(file=1024))[0]
    assert (
        "more than 2 branches"
        in found(
            "steps: [{type: parallel, branches: [{action: x}, {action: x}, {action: x}]}]",
            limits=Limits(items=2),
        )[0]
    )


def test_a_strategy_is_known_or_refused_where_the_known_ones_are_named() -> None:
    text = "steps: [{action: x, strategy: lazy}]"
    assert found(text) == []
    assert found(text, strategies=("random", "sticky")) == [
        '1:21: steps[0].strategy: expected one of "random", "sticky", found "lazy"'
    ]


def test_check_refuses_a_card_that_was_read_and_cannot_run() -> None:
    card = ProcessCard.from_dict({"steps": [{"action": "x", "params": {"a": "${v}"}}]})
    with pytest.raises(DocumentError, match='nothing sets the variable "v"'):
        check(card)
    check(ProcessCard.from_dict({"steps": [{"action": "x"}]}))


# -- against who is there ---------------------------------------------------------------------------------------------

WRITE = Capability(
    {"name": "write", "input_schema": {"topic": "string", "words": "integer?", "tags": "string[]?"}}
)
STRICT = Capability(
    {
        "name": "strict",
        "input_schema": {
            "type": "object",
            "properties": {
                "a": {"type": "integer", "maximum": 5},
                "b": {"type": "object", "required": ["c"]},
            },
            "required": ["a"],
            "additionalProperties": False,
        },
    }
)


def against(steps: str, *capabilities: Capability) -> list[str]:
    card = ProcessCard.parse(f"steps:\n{steps}")

    def offers(step: ActionStep) -> Sequence[Capability]:
        return [one for one in capabilities if one.name == step.action and step.selector is None]

    return [
        f"{fault.line}:{fault.column}: {fault.path}: {fault.message}"
        for fault in check_offers(card, offers, {one.name for one in capabilities})
    ]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("write, params: {topic: bees, words: 5, tags: [a]}", []),
        ("write, params: {topic: '${input.t}', words: '${input.n}', tags: ['${input.t}']}", []),
        ("write", []),  # what a shorthand asks for may have a default at the node
        ("writ", ['2:4: steps[0].action: no node offers the capability "writ", did you mean "write"?']),
        ("paint", ['2:4: steps[0].action: no node offers the capability "paint": start a node']),
        (
            "write, selector: a=b",
            [
                '2:4: steps[0].action: the capability "write" is on offer, '
                'but by no node that the selector "a=b" matches'
            ],
        ),
        ("write, params: {theme: '${input.t}'}", ["2:28: steps[0].params.theme: unknown, and no others"]),
        (
            "write, params: {words: many}",
            [
                '2:28: steps[0].params.words: expected a whole number or null, found text "many" '
                "(by the contract of write)"
            ],
        ),
        (
            "write, params: {tags: [1, '${input.t}']}",
            ["2:35: steps[0].params.tags[0]: expected text, found the number 1"],
        ),
        ("strict, params: {}", ["2:20: steps[0].params: a: required, and missing"]),
        (
            "strict, params: {a: 6, b: {}}",
            ["2:29: steps[0].params.a: ", "2:20: steps[0].params: b.c: required, and missing"],
        ),
        ("strict, params: {a: '${input.a}', b: '${input.b}'}", []),
        ("strict, params: {b: '${input.b}'}", ["2:20: steps[0].params: a: required, and missing"]),
    ],
)
def test_a_card_is_held_against_what_is_on_offer(steps: str, expected: list[str]) -> None:
    lines = against(f"- {{action: {steps}}}", WRITE, STRICT)
    assert len(lines) == len(expected), lines
    for line, begins in zip(sorted(lines), sorted(expected), strict=True):
        assert line.startswith(begins), line


def test_one_contract_that_allows_it_is_enough() -> None:
    newer = Capability({"name": "write", "input_schema": {"theme": "string"}})
    assert against("- {action: write, params: {theme: bees}}", WRITE, newer) == []
    assert against("- {action: write, params: {subject: bees}}", WRITE, newer) != []
    assert against("- {action: write, params: {subject: bees}}", WRITE, Capability({"name": "write"})) == []
    broken = Capability({"name": "write", "input_schema": {"theme": "no type"}})
    assert against("- {action: write, params: {subject: bees}}", broken) == []


# -- cards that run cards ---------------------------------------------------------------------------------------------


def with_cards(**texts: str) -> list[Fault]:
    def find(name: str, origin: str) -> tuple[str, ProcessCard]:
        if name not in texts:
            raise DocumentError(name, [Fault("", "cannot read the file"), Fault("", "at all")])
        return name, ProcessCard.parse(texts[name], source=name)

    return check_cards(ProcessCard.parse(texts["main"], source="main"), "main", find)


def run(name: str) -> str:
    return f"steps: [{{type: subprocess, card: {name}}}]"


def test_cards_that_are_run_must_be_there_and_right_and_not_run_themselves() -> None:
    plain = "steps: [{action: x}]"
    assert with_cards(main=run("a"), a=run("b"), b=plain) == []
    assert (
        with_cards(
            main="steps: [{type: subprocess, card: a}, {type: subprocess, card: b}]", a=run("b"), b=plain
        )
        == []
    )
    (fault,) = with_cards(main=run("a"), a=run("c"))
    assert fault.message == 'the card "c" cannot be run: c: cannot read the file (and 1 more)'
    assert (fault.path, fault.line, fault.column) == ("steps[0].card", 1, 28)
    (fault,) = with_cards(main=run("a"), a="steps: [{action: 5}]")
    assert 'the card "a" cannot be run: a:1:10: steps[0].action: expected' in fault.message
    (fault,) = with_cards(main=run("main"))
    assert fault.message == "a card that runs itself: main -> main"
    (fault,) = with_cards(main=run("a"), a=run("b"), b=run("a"))
    assert fault.message == "a card that runs itself: a -> b -> a"
    chain = {f"c{n}": run(f"c{n + 1}") for n in range(20)}
    (fault,) = with_cards(main=run("c0"), c20=plain, **chain)
    assert "cards run by cards, deeper than 10" in fault.message


def test_many_ways_to_the_same_cards_are_looked_at_once() -> None:
    # Each of 9 levels runs both cards of the next: 2 ** 9 ways.
    both = "steps: [{{type: subprocess, card: l{0}a}}, {{type: subprocess, card: l{0}b}}]"
    texts = {f"l{n}{side}": both.format(n + 1) for n in range(8) for side in "ab"}
    asked: list[str] = []

    def find(name: str, origin: str) -> tuple[str, ProcessCard]:
        asked.append(name)
        return name, ProcessCard.parse(texts.get(name, "steps: [{action: x}]"), source=name)

    assert check_cards(ProcessCard.parse(texts["l0a"]), "main", find) == []
    assert len(asked) < 100


# -- what is promised of variables ------------------------------------------------------------------------------------

NAMES = ["${u}", "${v}", "${w}"]
IDS = [f"s{n}" for n in range(6)]


@st.composite
def cards(draw: st.DrawFn) -> dict[str, Any]:
    """Cards of actions and conditions with jumps anywhere."""
    count = draw(st.integers(2, len(IDS)))
    targets = st.sampled_from([*IDS[:count], "complete"])
    steps: list[dict[str, Any]] = []
    for name in IDS[:count]:
        step: dict[str, Any] = {"id": name}
        if draw(st.booleans()):
            step |= {"condition": "${input.way}", "then": draw(targets)}
            if draw(st.booleans()):
                step["else"] = draw(targets)
        else:
            step |= {"action": "x", "params": {"v": draw(st.sampled_from(NAMES))}}
            if draw(st.booleans()):
                step["output"] = draw(st.sampled_from("uvw"))
            if draw(st.integers(0, 2)) == 0:
                step["next"] = draw(targets)
            if draw(st.integers(0, 3)) == 0:
                step["retry"] = {"on_failure": draw(st.sampled_from(["continue", *IDS[:count]]))}
        steps.append(step)
    return {"variables": {"u": 1}, "steps": steps}


@settings(max_examples=200)
@given(
    cards(),
    st.lists(st.booleans(), min_size=40, max_size=40),
    st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_what_is_said_of_variables_is_true_of_every_walk(
    document: dict[str, Any], ways: list[bool], fails: list[bool]
) -> None:
    """A card without faults and warnings never lacks a variable; a use that is a fault has one on no walk."""
    import yaml

    text = yaml.safe_dump(document)
    report = examine(text, source="c")
    card = ProcessCard.parse(text)
    card_ways, card_fails = iter(ways), iter(fails)

    def x(v: Any) -> int:
        if next(card_fails, False):
            raise Failed
        return 1

    class Ways(Walk):
        def step(self, step: Any, scope: dict[str, Any]) -> Any:
            scope["input"] = {"way": next(card_ways, True)}
            return super().step(step, scope)

    walk = Ways(card, {"x": x})
    try:
        walk.run(way=True)
    except Failed:
        pass
    except ExpressionError as error:
        wrong = [fault.path for fault in (*report.faults, *report.warnings)]
        index = list(card.steps).index(error.step)
        assert f"steps[{index}].params.v" in wrong
    unreached = {fault.path for fault in report.faults if "no way leads" in fault.message}
    assert not {f"steps[{list(card.steps).index(name)}]" for name in walk.visited} & unreached
