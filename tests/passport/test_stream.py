"""A stream of passports: every fault has its line, and nothing hostile in it is built."""

from __future__ import annotations

import io

import pytest

from roster.passport.files import FileReport
from roster.passport.stream import MAX_FAULTS, read_stream

GOOD = "apiVersion: ai-team.dev/v1\nkind: NodePassport\nmetadata: {{name: {}}}\nspec: {{}}\n"


def read(text: str | bytes) -> FileReport:
    return read_stream(io.BytesIO(text.encode() if isinstance(text, str) else text), "f.yaml")


def indented(text: str) -> str:
    return "- " + "\n  ".join(text.splitlines()) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        GOOD.format("a") + "---\n" + GOOD.format("b"),
        "---\n" + GOOD.format("a") + "--- # two\n" + GOOD.format("b") + "---\n# nothing\n",
        "kind: List\napiVersion: v1\nitems:\n" + indented(GOOD.format("a")) + indented(GOOD.format("b")),
        "kind: List\nitems:\n" + indented(GOOD.format("a")) + "---\n" + GOOD.format("b"),
        "\ufeff" + GOOD.format("a") + "---\r\n" + GOOD.format("b").replace("\n", "\r\n"),
    ],
)
def test_documents_and_lists_are_read_alike(text: str) -> None:
    report = read(text)

    assert (report.lines(), [one.key for one in report.passports]) == ([], ["default/a", "default/b"])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "f.yaml: expected passports, found no document"),
        ("# only\n---\n", "f.yaml: expected passports, found no document"),
        (GOOD.format("a") + "---\n" + GOOD.format("A"), "f.yaml:8:12: metadata.name: expected a DNS-1123 label"),
        (GOOD.format("a") + "---\n" + GOOD.format("a"), "f.yaml:8:12: metadata.name: default/a stands in this file twice"),
        (GOOD.format("a") + "---\nx: [\n", "f.yaml:7:1: this is not YAML"),
        (GOOD.format("a") + "---\n- 1\n", "f.yaml:6:1: expected a passport"),
        (GOOD.format("a") + "---\nkind: List\nitems: {}\n", "f.yaml:6:1: items: expected a list of passports"),
        ("kind: List\nitems:\n- 1\n", "f.yaml:3:3: expected a passport"),
        ("kind: List\nitems:\n" + indented(GOOD.format("a") + "x: 1\nx: 2\n"), 'the key "x" stands here a second time'),
        (GOOD.format("a") + "...\n" + GOOD.format("b"), "f.yaml"),
        (GOOD.format("a") + "---\nx: !!python/object:os.system {}\n", "f.yaml:6:4: the tag"),
        (b"a: \xff\n", "f.yaml:1:4: byte 0xff is not UTF-8"),
        ("x: " + "[" * 40 + "]" * 40, "nested deeper"),
        (GOOD.format("a") + "x: " + "y" * 1024 * 1024, "larger than 1024 KiB"),
        ("---\n" + "# " + "y" * 17 * 1024 * 1024, "larger than 16384 KiB"),
        ("a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
        ), "more than 320000 nodes"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(text: str | bytes, fault: str) -> None:
    report = read(text)

    assert not report.ok
    assert fault in "\n".join(report.lines())


def test_every_fault_of_every_document_is_listed() -> None:
    report = read("".join("---\n" + GOOD.format(name) for name in ("A", "b", "C")))

    assert [fault.line for fault in report.faults] == [4, 14]
    assert [one.key for one in report.passports] == ["default/b"]


def test_a_file_of_rubbish_is_told_of_and_not_retold() -> None:
    report = read("---\n- 1\n" * (MAX_FAULTS + 500))

    assert len(report.faults) == MAX_FAULTS + 1
    assert "the rest of the file was not read" in report.lines()[-1]


def test_three_dashes_inside_a_text_begin_nothing() -> None:
    report = read(GOOD.format("a") + "x-text: |\n  ---\n  more\n")

    assert report.lines() == []
    assert report.passports[0]["x-text"] == "---\nmore\n"


def test_warnings_have_their_lines() -> None:
    report = read(GOOD.format("a") + "---\n" + GOOD.format("b") + "x-odd: 1\n")

    assert report.warning_lines() == ["f.yaml:10:1: x-odd: unknown field; it is kept"]
