"""A function against the capability that it serves."""

from __future__ import annotations

import dataclasses
import enum
from datetime import date
from typing import Any

import pytest
from tests.conftest import passport

from roster.bus import Message
from roster.errors import InvalidParamsError, InvalidResultError, NodeError
from roster.node import Context
from roster.node.handlers import Handler, bind
from roster.passport import Capability, NodePassport


def capability(**fields: Any) -> Capability:
    found = NodePassport.from_dict(passport("n", {"name": "work", **fields})).capability("work")
    assert found is not None
    return found


def context(**params: Any) -> Context:
    return Context(
        node="default/n",
        capability="work",
        message=Message.command("work", params),
        params=params,
        deadline=None,
        say=lambda data: None,
    )


def run(handler: Handler, **params: Any) -> Any:
    handler.check_params(params)
    return handler.result(handler.function(**handler.arguments(params, context(**params))))


def test_params_become_arguments_and_the_context_comes_along() -> None:
    def work(topic: str, context: Context, style: str = "plain") -> dict[str, Any]:
        return {"topic": topic, "style": style, "node": context.node}

    handler = bind(capability(input_schema={"topic": "string", "style": "string?"}), work)
    assert run(handler, topic="пчёлы") == {"topic": "пчёлы", "style": "plain", "node": "default/n"}


def test_a_default_fills_in_what_the_passport_names_and_the_caller_leaves_out() -> None:
    # The founding document declares a style and calls without one.
    def work(topic: str, style: str = "plain") -> dict[str, Any]:
        return {"topic": topic, "style": style}

    handler = bind(capability(input_schema={"topic": "string", "style": "string"}), work)
    assert run(handler, topic="AI trends 2025") == {"topic": "AI trends 2025", "style": "plain"}
    with pytest.raises(InvalidParamsError, match="topic: required"):
        handler.check_params({"style": "x"})


def test_annotations_give_the_schema_where_the_passport_gives_none() -> None:
    def work(topic: str, count: int = 1) -> dict[str, Any]:
        return {"topic": topic * count}

    handler = bind(capability(), work)
    assert run(handler, topic="a", count=2) == {"topic": "aa"}
    with pytest.raises(InvalidParamsError, match="topic: required"):
        handler.check_params({})
    with pytest.raises(InvalidParamsError, match="count"):
        handler.check_params({"topic": "a", "count": "two"})
    with pytest.raises(InvalidParamsError, match="tpoic"):
        handler.check_params({"topic": "a", "tpoic": "b"})


class Style(enum.Enum):
    PLAIN = "plain"


@dataclasses.dataclass
class Wish:
    day: date
    style: Style


def test_values_become_what_the_annotation_asks_for() -> None:
    def work(wish: Wish) -> dict[str, Any]:
        return {"year": wish.day.year, "style": wish.style}

    handler = bind(capability(), work)
    assert run(handler, wish={"day": "2026-11-23", "style": "plain"}) == {"year": 2026, "style": Style.PLAIN}
    with pytest.raises(InvalidParamsError):
        run(handler, wish={"day": "no day", "style": "plain"})


def test_an_annotation_that_cannot_be_resolved_is_refused_at_once() -> None:
    @dataclasses.dataclass
    class Half:
        other: Missing  # type: ignore[name-defined]  # noqa: F821 - that it is missing is the point

    def work(half: Any) -> None: ...

    work.__annotations__["half"] = Half
    with pytest.raises(NodeError, match="half"):
        bind(capability(), work)


def test_a_dataclass_that_is_returned_becomes_json() -> None:
    @dataclasses.dataclass
    class Article:
        text: str

    def work() -> Any:
        return Article("hello")

    assert run(bind(capability(), work)) == {"text": "hello"}


def test_what_json_cannot_say_is_an_error_of_the_handler() -> None:
    def work() -> Any:
        return object()

    with pytest.raises(InvalidResultError, match="object"):
        run(bind(capability(), work))


def test_a_result_against_the_output_schema_names_every_fault() -> None:
    def work() -> dict[str, Any]:
        return {"article": 1}

    handler = bind(capability(output_schema={"article": "string", "metadata": "object"}), work)
    with pytest.raises(InvalidResultError, match=r"article.*metadata|metadata.*article"):
        run(handler)


@pytest.mark.parametrize(
    ("schema", "function", "says"),
    [
        ({"topic": "string"}, lambda: None, "no such parameter"),
        ({"topic": "string"}, lambda topic, other: None, "'other', the passport's input does not have it"),
        ({"topic": "string?"}, lambda topic: None, "give the parameter a default"),
        ({"topic": "string"}, lambda topic, *rest: None, r"\*rest cannot be filled"),
        ({"topic": "string"}, lambda topic, /: None, "positional-only"),
    ],
)
def test_a_function_that_contradicts_the_passport_is_refused(schema: Any, function: Any, says: str) -> None:
    with pytest.raises(NodeError, match=says):
        bind(capability(input_schema=schema), function)


def test_types_that_contradict_each_other_are_refused_and_numbers_are_numbers() -> None:
    def wrong(topic: int) -> None: ...

    def right(topic: int) -> None: ...

    with pytest.raises(NodeError, match="'topic' is string in the passport, integer in the function"):
        bind(capability(input_schema={"topic": "string"}), wrong)
    bind(capability(input_schema={"topic": "number"}), right)

    def result() -> list[int]:
        return []

    with pytest.raises(NodeError, match="the result is object in the passport, array in the function"):
        bind(capability(output_schema={"article": "string"}), result)


def test_a_function_with_keywords_takes_whatever_the_schema_lets_through() -> None:
    def work(**params: Any) -> dict[str, Any]:
        return params

    assert run(bind(capability(input_schema={"a": "integer", "b": "integer"}), work), a=1, b=2) == {
        "a": 1,
        "b": 2,
    }
