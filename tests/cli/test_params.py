"""Params on the command line become what the capability asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from roster.cli.params import document_params, pair_params
from roster.errors import ConfigError

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "count": {"type": "integer"},
        "share": {"type": "number"},
        "draft": {"type": "boolean"},
        "maybe": {"type": ["integer", "null"]},
        "either": {"type": ["integer", "string"]},
        "tags": {"type": "array"},
        "topic": {"type": "string"},
    },
}


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("topic=5", "5"),
        ("count=5", 5),
        ("count=-5", -5),
        ("share=0.5", 0.5),
        ("share=2", 2),
        ("draft=true", True),
        ("draft=False", False),
        ("maybe=7", 7),
        ("maybe=null", None),
        ("either=5", "5"),
        ('tags=["a","b"]', ["a", "b"]),
        ("unknown=5", "5"),
        ("topic=a=b:=c", "a=b:=c"),
        ("topic=", ""),
        ("topic=two\nlines", "two\nlines"),
        ("anything:=[1,2.5,null]", [1, 2.5, None]),
        ('topic:="quoted"', "quoted"),
    ],
)
def test_a_pair_is_typed_by_the_schema(pair: str, value: Any) -> None:
    (found,) = pair_params([pair], [None, True, _SCHEMA]).values()

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ("count=many", "wants integer"),
        ("count=1.5", "wants integer"),
        ("share=nan", "wants number"),
        ("draft=yes", "wants boolean"),
        ("tags={}", "wants array"),
        ("maybe=x", "wants integer or null"),
        ("x:=nope", "not JSON"),
        ("x:=NaN", "not JSON"),
        ("x:=" + "[" * 100_000, "nested too deeply"),
        ('x:={"a":1,"a":2}', "stands there twice"),
        ("novalue", "write NAME=TEXT"),
        ("=x", "write NAME=TEXT"),
    ],
)
def test_a_pair_that_cannot_be_what_is_asked_for_is_refused(pair: str, reason: str) -> None:
    with pytest.raises(typer.BadParameter, match=reason):
        pair_params([pair], [_SCHEMA])


def test_a_param_is_given_once() -> None:
    with pytest.raises(typer.BadParameter, match="give it once"):
        pair_params(["a=1", "a=2"], [])


def test_a_document_is_read_from_the_option_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "params.json"
    file.write_text('{"topic": "пчёлы"}')

    assert document_params(None) == {}
    assert document_params('{"a": 1}') == {"a": 1}
    assert document_params(f"@{file}") == {"topic": "пчёлы"}


def test_a_document_that_is_no_object_is_refused(tmp_path: Path) -> None:
    for text in ("[1]", "5", '"x"', "{", "null"):
        with pytest.raises(typer.BadParameter, match="JSON"):
            document_params(text)
    with pytest.raises(ConfigError, match="cannot read --params"):
        document_params(f"@{tmp_path}/none.json")
    (tmp_path / "latin").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(typer.BadParameter, match="not UTF-8"):
        document_params(f"@{tmp_path}/latin")


def test_a_document_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b'{"a": "' + b"x" * 5_000_000 + b'"}')

    with pytest.raises(typer.BadParameter, match="larger than"):
        document_params(f"@{tmp_path}/big")


@pytest.mark.parametrize("option", ["-p", "--params"])
def test_bytes_that_are_no_text_are_refused(option: str) -> None:
    text = "topic=\udcff" if option == "-p" else '{"topic": "\udcff"}'
    with pytest.raises(typer.BadParameter, match="is no text in this locale's encoding"):
        pair_params([text], []) if option == "-p" else document_params(text)
