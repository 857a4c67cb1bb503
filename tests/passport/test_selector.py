"""Selectors mean what they mean in Kubernetes, and reach fields besides."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.passport.samples import FOUNDING, small

from roster.errors import SelectorError
from roster.passport import NodePassport, Selector

LABELS = {
    "role": "writer",
    "tier": "a",
    "gpu": "",
    "cores": "8",
    "example.com/zone": "eu-1",
    "in": "x",
    "big": "9223372036854775808",
}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("  ", True),
        ("role=writer", True),
        ("role==writer", True),
        (" role = writer ", True),
        ("role=editor", False),
        ("missing=x", False),
        ("role!=editor", True),
        ("role!=writer", False),
        ("missing!=x", True),
        ("role in (writer, editor)", True),
        ("role in (editor)", False),
        ("missing in (a)", False),
        ("role notin (editor)", True),
        ("role notin (writer,editor)", False),
        ("missing notin (a)", True),
        ("gpu", True),
        ("missing", False),
        ("!missing", True),
        ("! missing", True),
        ("!gpu", False),
        ("gpu=", True),
        ("gpu= ,role=writer", True),
        ("role=", False),
        ("missing=", False),
        ("gpu in (,a)", True),
        ("gpu in (a,)", True),
        ("gpu in (a,,b)", True),
        ("gpu in (,)", True),
        ("role notin (,)", True),
        ("cores>4", True),
        ("cores > 8", False),
        ("cores<9", True),
        ("cores<-1", False),
        ("missing>1", False),
        ("missing<1", False),
        ("role>1", False),
        ("big>1", False),  # beyond 64 bits Go cannot read it either
        ("example.com/zone=eu-1", True),
        ("in=x", True),
        ("in in (x)", True),
        ("in", True),
        ("notin", False),
        ("role=writer,tier in (a,b),!legacy,gpu", True),
        ("role=writer,tier in (a,b),!legacy,!gpu", False),
        ("x in(a)", False),
        ("role\tin\n(writer)", True),
    ],
)
def test_the_string_form_matches_as_in_kubernetes(text: str, matches: bool) -> None:
    assert Selector.parse(text).matches(LABELS) is matches


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,", "position 3: expected a key"),
        (",a", "position 1"),
        ("a,,b", "position 3"),
        ("=a", "position 1: expected a key"),
        ("!", "expected a key, found the end"),
        ("!!a", "position 2: expected a key"),
        ("!a=b", "position 3: expected a comma"),
        ("a b", "position 3: expected one of =, =="),
        ("a=b c", "position 5: expected a comma"),
        ("a in b", r"expected \( and values"),
        ("a in (b", r"expected a comma or \), found the end"),
        ("a in (b c)", r"expected a comma or \)"),
        ("a in (", r"expected a value"),
        ("a in ()", "needs at least one value"),
        ("a notin ()", "needs at least one value"),
        ("a===b", "expected a value"),
        ("a=(b)", "expected a value"),
        ("a>b", "needs a whole number"),
        ("a>1.5", "needs a whole number"),
        ("a>", "needs a whole number"),
        ("a>99999999999999999999", "needs a whole number"),
        ("a/b/c=d", "not a label key"),
        ("-a", "not a label key"),
        ("роль=x", "not a label key .character 1 is U\\+0440"),
        ("a=b/c", "not a label value"),
        ("a=" + "b" * 64, "not a label value"),
        ("spec..x=1", "not a field path"),
        ("a=\x1b[31m", "not a label value"),
        ("a=b," * 65 + "c", "at most 64"),
        ("x" * 5000, "at most 4096"),
        (f"a in ({','.join(str(i) for i in range(300))})", "at most 256"),
    ],
)
def test_a_selector_that_cannot_be_read_says_where_and_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(SelectorError, match=message) as error:
        Selector.parse(text)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (None, ""),
        ({}, ""),
        ({"matchLabels": None, "matchExpressions": None}, ""),
        ({"matchLabels": {"role": "writer"}}, "role=writer"),
        ({"role": "writer", "tier": "a"}, "role=writer,tier=a"),
        ({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["b", "a"]}]}, "tier in (a,b)"),
        ({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["a"]}]}, "tier notin (a)"),
        ({"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}, "gpu"),
        ({"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist", "values": []}]}, "!gpu"),
        ({"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["4"]}]}, "cores>4"),
        ({"matchExpressions": [{"key": "cores", "operator": "Lt", "values": ["4"]}]}, "cores<4"),
        ({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]}, "a=b,c"),
    ],
)
def test_the_map_form_is_the_same_selector(form: Any, text: str) -> None:
    assert Selector.parse(form) == Selector.parse(text)
    assert str(Selector.parse(form)) == text


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"matchLabels": {"a": 1}}, "text to text"),
        ({"matchLabels": ["a"]}, "expected a map of label to value"),
        ({"matchLabels": {}, "more": 1}, 'unknown key "more"'),
        ({"matchExpressions": {"key": "a"}}, "expected a list"),
        ({"matchExpressions": ["a"]}, r"matchExpressions\[0\]: expected a map"),
        ({"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]}, "In, NotIn, Exists"),
        ({"matchExpressions": [{"key": "a", "operator": "In"}]}, "needs at least one value"),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": "b"}]}, "a list of text"),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": [1]}]}, "put it in quotes"),
        ({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}, "takes no values"),
        ({"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1", "2"]}]}, "exactly one value"),
        ({"matchExpressions": [{"key": "a", "operator": "Exists", "value": "b"}]}, 'unknown key "value"'),
        (5, "text or a map"),
        ({5: "a"}, "text to text"),
    ],
)
def test_a_wrong_map_form_says_what_is_wrong(form: Any, message: str) -> None:
    with pytest.raises(SelectorError, match=message):
        Selector.parse(form)


def test_equality_is_by_canonical_text() -> None:
    assert Selector.parse("b,a in (y,x,x)") == Selector.parse(" a in ( x , y ) , b , b")
    assert hash(Selector.parse("a==b")) == hash(Selector.parse("a=b"))
    assert str(Selector.parse("tier in (b,a),role==w,!x")) == "role=w,tier in (a,b),!x"
    assert Selector.parse(Selector.parse("a")) == Selector.parse("a")
    assert Selector.parse("a") != Selector.parse("b")
    assert Selector.parse("").empty
    assert not Selector.parse("a").empty


DOCUMENT = NodePassport.from_dict(
    {
        **small(
            version="1.2.0",
            resources={
                "llm_model": "meta/llama-3:8b",
                "memory": "4Gi",
                "cpu": "500m",
                "gpus": 2,
                "warm": True,
                "temp": 0.5,
            },
        ),
        "metadata": {"name": "writer-001", "labels": {"spec.tier": "a", "example.com/x": "1"}},
    }
)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("metadata.name=writer-001", True),
        ("spec.resources.llm_model=meta/llama-3:8b", True),
        ("spec.resources.llm_model in (gpt-4,meta/llama-3:8b)", True),
        ("spec.resources.llm_model!=gpt-4", True),
        ("spec.resources.memory>2Gi", True),
        ("spec.resources.memory>4096Mi", False),
        ("spec.resources.memory<4.1Gi", True),
        ("spec.resources.memory>4G", True),
        ("spec.resources.memory<1e10", True),
        ("spec.resources.memory>2k", True),
        ("spec.resources.cpu<1", True),
        ("spec.resources.cpu>499m", True),
        ("spec.resources.cpu>0.5", False),
        ("spec.resources.gpus>1", True),
        ("spec.resources.gpus=2", True),
        ("spec.resources.temp<600m", True),
        ("spec.resources.warm=true", True),
        ("spec.resources.warm>0", False),
        ("spec.resources.llm_model>1", False),
        ("spec.resources", True),
        ("spec.resources=x", False),
        ("spec.resources!=x", True),
        ("!spec.resources.tpu", True),
        ("spec.resources.tpu>1", False),
        ("spec.resources.memory.x", False),
        ("status.state=ready", True),  # the default
        ("metadata.namespace=default", True),
        ("spec.type=agent", True),
        ("spec.resources.max_concurrent_tasks<2", True),
        ("metadata.labels.spec.tier=a", True),
        ("spec.tier=a", False),  # a field path, not the label of that name
        ("metadata.annotations.x", False),
        ("spec.x/y", False),  # a label: it has a slash
    ],
)
def test_field_paths_reach_into_the_document(text: str, matches: bool) -> None:
    selector = Selector.parse(text)
    assert selector.matches(DOCUMENT.labels, DOCUMENT) is matches
    assert selector.matches(DOCUMENT.labels, DOCUMENT.to_dict()) is matches
    assert selector.needs_document is ("/" not in text.split("=")[0] or "llm_model" in text)


def test_a_label_with_a_prefix_like_a_section_is_a_label() -> None:
    selector = Selector.parse("spec.example/y=z")
    assert not selector.needs_document
    assert selector.matches({"spec.example/y": "z"})


def test_without_a_document_every_field_is_absent() -> None:
    assert not Selector.parse("status.state=ready").matches({})
    assert Selector.parse("status.state!=busy").matches({})


@pytest.mark.parametrize("value", ["4Gi5", "1e999", "", "Gi", "1.2.3", "1 Gi", "0x10", "٣"])
def test_what_is_no_quantity_is_refused(value: str) -> None:
    with pytest.raises(SelectorError, match=r"quantity|expected"):
        Selector.parse(f"spec.resources.memory>{value}")


def test_the_founding_passport_is_found() -> None:
    passport = NodePassport.load(FOUNDING)
    assert Selector.parse("role=writer,spec.resources.llm_model=gpt-4,status.state=ready").matches(
        passport.labels, passport
    )


@given(st.text(st.sampled_from("ab1./=!<>(), in-_not\t"), max_size=40) | st.text(max_size=30))
@settings(max_examples=400)
def test_any_text_is_read_or_refused_and_its_canonical_form_reads_the_same(text: str) -> None:
    try:
        selector = Selector.parse(text)
    except SelectorError:
        return
    again = Selector.parse(str(selector))
    assert str(again) == str(selector)
    assert again == selector
    assert again.matches(LABELS, DOCUMENT) == selector.matches(LABELS, DOCUMENT)
