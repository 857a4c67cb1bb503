"""Whatever the bytes are, reading them ends soon, in a document or in one DocumentError."""

from __future__ import annotations

import copy
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.passport.samples import FOUNDING, refusal, small, yaml_with

from roster.errors import DocumentError
from roster.passport import NodePassport, json_text, yaml_text
from roster.passport.limits import FILE, STORED, Limits
from roster.passport.reading import Document, ReadError, read
from roster.passport.writing import to_json, to_yaml

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def parsed(text: str, limits: Limits = FILE) -> Any:
    (document,) = yaml_text.read(text, limits)
    return document.value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", "not YAML"),
        ("a: b: c", "mapping values are not allowed"),
        ("a: 1\na: 2", 'the key "a" stands here a second time'),
        ("x: {y: [{b: 1, b: 2}]}", 'the key "b" stands here a second time'),
        ('{"a": {"b": 1, "b": 2}}', 'the key "b" stands here a second time'),
        (BOMB, "more than 20000 nodes, aliases written out"),
        ("a: &a [*a]", "cannot hold itself"),
        ("a: *b", "names no anchor"),
        ("a: !!python/object/apply:os.system [id]", "tag .* is not allowed"),
        ("a: !mine b", "tag .* is not allowed"),
        ("a: !!set {b}", "tag .* is not allowed"),
        ("a: !!int '1'", "tag .* is not allowed"),
        ("a: {<<: {b: 1}}", "merge keys"),
        ("? [a]\n: b", "a key must be text"),
        ("1: a", "a key must be text"),
        ("true: a", "a key must be text"),
        ("~: a", "a key must be text"),
        ("[" * 100_000, "nested deeper than 32"),
        ("{a: " * 100_000, "nested deeper than 32"),
        ('{"a":' * 100_000, "nested deeper than 32"),
        ("- " * 100_000, "nested deeper than 32"),
        ("a\x00b", r"control character U\+0000"),
        ("a: 1\nb: \x1b[31m", r"control character U\+001B"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ("a: \ud800", "half of a surrogate pair"),
        ("a: " + "9" * 4301, "a number of 4301 characters"),
        ('{"a": ' + "9" * 4301 + "}", "a number of 4301 characters"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ('{"a": 1e999}', "out of range"),
        ("a: 1e999", "out of range"),
        ("a: .inf", "not a JSON number"),
        ("a: .NaN", "not a JSON number"),
        ("x" * (FILE.bytes + 1), "larger than 1024 KiB"),
        ("я" * (FILE.bytes // 2 + 1), "larger than 1024 KiB"),
        ("", "found no document"),
        ("a: 1\n---\nb: 2", "found 2 documents"),
        ("---\n" * 200, r"more than 100 document"),
        ("%YAML 3.0\n---\na: 1", "not YAML"),
        ('{"a": 1', "not JSON"),
        ('{"a": tru}', "expected a passport|required"),
        ('{"a": 1,}', "required"),
    ],
)
def test_hostile_text_is_one_clear_error(text: str, message: str) -> None:
    started = time.perf_counter()
    with pytest.raises(DocumentError, match=message) as error:
        NodePassport.parse(text)
    assert time.perf_counter() - started < 2
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\xff\xfea\x00", "UTF-16"),
        (b"\xfe\xff\x00a", "UTF-16"),
        (b"\xff\xfe\x00\x00a\x00\x00\x00", "UTF-32"),
        (b"a: 1\nb: \xc3\x28", "byte 0xc3 is not UTF-8"),
        (b"a: \xed\xa0\x80", "byte 0xed is not UTF-8"),
    ],
)
def test_other_encodings_are_named(raw: bytes, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        NodePassport.parse(raw)
    with pytest.raises(DocumentError, match=message):
        NodePassport.from_stored(raw)


def test_an_invalid_byte_has_its_place() -> None:
    with pytest.raises(DocumentError) as error:
        NodePassport.parse("a: 1\nж: ".encode() + b"\xc3\x28")
    assert (error.value.faults[0].line, error.value.faults[0].column) == (2, 4)


def test_a_utf8_bom_is_no_part_of_the_text() -> None:
    raw = b"\xef\xbb\xbf" + FOUNDING.read_bytes()
    assert NodePassport.parse(raw) == NodePassport.load(FOUNDING)
    assert (
        NodePassport.from_stored(b"\xef\xbb\xbf" + NodePassport.load(FOUNDING).to_json()).name == "writer-001"
    )


def test_a_10_mb_file_is_refused_without_being_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "big.yaml"
    with file.open("wb") as out:
        out.truncate(10 * 1024 * 1024 * 1024)  # sparse: reading it whole would not fit in memory
    started = time.perf_counter()
    with pytest.raises(DocumentError, match="larger than 1024 KiB"):
        NodePassport.load(file)
    assert time.perf_counter() - started < 1


def test_a_fifo_does_not_hang_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DocumentError, match="not a regular file"):
        NodePassport.load(tmp_path / "fifo")


def test_a_stored_passport_is_at_most_256_kib() -> None:
    document = {**small(), "metadata": {"name": "a", "annotations": {"a": "x" * STORED.bytes}}}
    raw = NodePassport.from_dict(document).to_json()
    with pytest.raises(DocumentError, match="larger than 256 KiB"):
        NodePassport.from_stored(raw)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: no", {"a": "no"}),
        ("a: Yes", {"a": "Yes"}),
        ("a: on", {"a": "on"}),
        ("a: 012", {"a": "012"}),
        ("a: 0o17", {"a": "0o17"}),
        ("a: 0x1F", {"a": "0x1F"}),
        ("a: 1_000", {"a": "1_000"}),
        ("a: 12:30:45", {"a": "12:30:45"}),
        ("a: 2025-12-15", {"a": "2025-12-15"}),
        ("a: 2025-12-15T10:00:00Z", {"a": "2025-12-15T10:00:00Z"}),
        ("a: 1.2.3", {"a": "1.2.3"}),
        ("a: =", {"a": "="}),
        ("a: True", {"a": True}),
        ("a: false", {"a": False}),
        ("a: ~", {"a": None}),
        ("a:", {"a": None}),
        ("a: -0.5e3", {"a": -500.0}),
        ("a: 7", {"a": 7}),
        ("a: '7'", {"a": "7"}),
        ("a: !!str 7", {"a": "7"}),
        ("no: 1", {"no": 1}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("&k key: 1\nb: *k", {"key": 1, "b": "key"}),
        ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
        ("{a: 1, b: [c]}", {"a": 1, "b": ["c"]}),
    ],
)
def test_plain_scalars_hold_no_surprise(text: str, value: Any) -> None:
    assert parsed(text) == value
    assert [type(item) for item in parsed(text).values()] == [type(item) for item in value.values()]


def test_a_number_that_loses_a_zero_is_warned_of() -> None:
    passport = NodePassport.parse(yaml_with("  resources:\n    cuda: 1.10\n"))
    assert passport.resources["cuda"] == 1.1
    (warning,) = passport.warnings
    assert (warning.path, warning.line) == ("spec.resources.cuda", 7)
    assert "1.10 is read as the number 1.1" in warning.message


def test_aliases_count_as_what_they_stand_for() -> None:
    limits = Limits(bytes=1000, depth=4, nodes=50)
    fine = "a: &a [1,2,3,4,5,6,7,8,9,10]\nb: *a\nc: *a"
    assert parsed(fine, limits)["c"] == list(range(1, 11))
    with pytest.raises(ReadError, match="more than 50 nodes"):
        parsed(f"{fine}\nd: *a\ne: *a", limits)
    with pytest.raises(ReadError, match="larger than"):
        parsed(f"a: &a {'x' * 400}\nb: *a\nc: *a", limits)
    with pytest.raises(ReadError, match="deeper than 4"):
        parsed("a: &a [[1]]\nb: [[*a]]", limits)
    assert parsed("a: &a [[1]]\nb: [*a]", limits)["b"] == [[[1]]]


def test_json_limits_are_counted_exactly_where_the_cheap_bound_is_not_enough() -> None:
    limits = Limits(bytes=1000, depth=3, nodes=20)
    text = json.dumps({"a": ",[{" * 20, "b": [[]], "c": [[]]})
    assert json_text.load_fast(text, limits) == json.loads(text)
    with pytest.raises(ReadError, match="deeper than 3"):
        json_text.load_fast('{"a": [[[]]]}', limits)
    with pytest.raises(ReadError, match="more than 20 nodes"):
        json_text.load_fast(json.dumps({"a": list(range(30))}), limits)


def test_a_key_that_yaml_could_not_carry_is_refused() -> None:
    for key in ("x" * 401, "a\nb", "a\x9bb"):
        with pytest.raises(DocumentError, match="key"):
            NodePassport.from_dict(small(resources={key: 1}))


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1: 2},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": 10**5000},
        {"a": {1, 2}},
        {"a": "\ud800"},
        {"a": b"x"},
    ],
)
def test_what_json_cannot_say_is_a_fault_of_a_dict(value: Any) -> None:
    with pytest.raises(DocumentError):
        NodePassport.from_dict(small(resources=value))


def test_a_dict_that_holds_itself_or_explodes_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["a"] = loop
    with pytest.raises(DocumentError, match="deeper than 32"):
        NodePassport.from_dict(small(resources=loop))
    wide: list[Any] = []
    for _ in range(20):
        wide = [wide] * 10
    with pytest.raises(DocumentError, match="more than 20000 nodes"):
        NodePassport.from_dict(small(resources={"a": wide}))


# -- properties

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
keys = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=15,
)
tricky = st.sampled_from(
    [
        "1e5",
        "1.5e3",
        "0.1e-7",
        "no",
        "012",
        "~",
        "null",
        "",
        " a",
        "a ",
        "a\nb",
        "\n",
        " \n",
        "a\n ",
        "- a",
        "# a",
        "a: b",
        "a #b",
        "'",
        '"',
        "\x85",
        "\u2028",
        "a\u2029b",
        "\ufeff",
        "\x7f",
        "\x9b",
        "\x00",
        "\t",
        "\ta\nb",
        "\U0001f41d",
        "---",
        "...",
        "%",
        "@",
        "`",
        "!!int 1",
        "&a",
        "*a",
        "=",
        "<<",
        "\r",
        "a\r\nb",
    ]
)
documents = st.dictionaries(keys, trees | tricky, max_size=5)


@given(documents)
@settings(max_examples=150)
def test_json_output_is_read_alike_by_json_by_yaml_and_by_us(document: dict[str, Any]) -> None:
    raw = to_json(document)
    text = raw.decode()
    assert "\n" not in text
    assert json.loads(raw) == document
    assert yaml.safe_load(raw) == document
    assert json_text.load_fast(text, FILE) == document
    assert json_text.read(text, FILE).value == document


@given(documents)
@settings(max_examples=150)
def test_yaml_output_is_read_alike_by_yaml_and_by_us(document: dict[str, Any]) -> None:
    text = to_yaml(document)
    assert yaml.safe_load(text) == document
    (again,) = yaml_text.read(text, FILE)
    assert again.value == document


def _read(raw: bytes) -> None:
    for reader in (NodePassport.parse, NodePassport.from_stored):
        error = refusal(lambda reader=reader: reader(raw))  # type: ignore[misc]  # the loop's own reader
        if error is not None:
            assert isinstance(error, DocumentError)
            assert error.faults
            assert all(char.isprintable() or char == "\n" for char in str(error))
            continue
        passport = reader(raw)
        assert passport.key
        assert NodePassport.from_stored(passport.to_json()) == passport
        assert isinstance(passport.capabilities, tuple)
        assert passport.mindbus_queue
        assert passport.max_concurrent_tasks >= 1


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=250)
def test_random_bytes_never_raise_anything_else(raw: bytes) -> None:
    _read(raw)


@given(st.text(st.sampled_from("{}[]:,\"'&*!|>-? \n\tabc01.#%~<"), max_size=60))
@settings(max_examples=400)
def test_random_punctuation_never_raises_anything_else(text: str) -> None:
    _read(text.encode())


@given(trees)
@settings(max_examples=100)
def test_random_documents_never_raise_anything_else(document: Any) -> None:
    _read(json.dumps(document).encode())
    _read(yaml.safe_dump(document, allow_unicode=True).encode())


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    out = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return out + [each for key, item in items for each in _paths(item, (*path, key))]


@given(st.integers(0, 2**32), trees, st.integers(1, 3))
@settings(max_examples=250)
def test_a_mutated_passport_never_raises_anything_else(seed: int, junk: Any, changes: int) -> None:
    document = yaml.safe_load(FOUNDING.read_text())
    choose = random.Random(seed)
    for _ in range(changes):
        *parents, last = choose.choice(_paths(document))
        at = document
        for step in parents:
            at = at[step]
        if choose.random() < 0.3:
            del at[last]
        else:
            at[last] = copy.deepcopy(junk)
    _read(json.dumps(document).encode())
    error = refusal(lambda: NodePassport.from_dict(document))
    assert error is None or isinstance(error, DocumentError)


@given(st.integers(0, 2**32))
@settings(max_examples=150)
def test_mutated_text_never_raises_anything_else(seed: int) -> None:
    choose = random.Random(seed)
    raw = bytearray(FOUNDING.read_bytes() if seed % 2 else NodePassport.load(FOUNDING).to_json())
    for _ in range(choose.randint(1, 6)):
        at = choose.randrange(len(raw))
        raw[at : at + choose.randint(0, 3)] = choose.choice(
            [b"", b"\x00", b"{", b"]", b": ", b"- ", b"&a ", b"\xff", b'"', b"\n"]
        )
    _read(bytes(raw))


@given(documents)
@settings(max_examples=60)
def test_every_key_of_json_and_yaml_text_has_a_place(document: dict[str, Any]) -> None:
    found: list[Document] = [
        json_text.read(to_json(document).decode(), FILE),
        *yaml_text.read(to_yaml(document), FILE),
    ]
    for each in found:
        for path in _paths(document):
            line, column = each.places[path]
            assert line >= 1
            assert column >= 1


@given(documents)
@settings(max_examples=150)
def test_what_pyyaml_writes_into_the_store_is_read_as_it_was_meant(document: dict[str, Any]) -> None:
    text = yaml.dump(document)
    (again,) = read(text, source="<store>", limits=STORED, yaml_1_1=True)
    assert again.value == document
