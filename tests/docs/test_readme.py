"""Both READMEs are true: what they show is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.markdown import ROOT, Document
from tests.docs.tour import commands, same, tour

from roster.registry.settings import DEFAULT_RETENTION, DEFAULT_TTL

ENGLISH = Document.read("README.md")
RUSSIAN = Document.read("README.ru.md")
BOTH = pytest.mark.parametrize("document", [ENGLISH, RUSSIAN], ids=lambda document: document.name)
RUN = ("console", "python", "yaml")


def test_the_tour_runs_as_it_is_written(tmp_path: Path) -> None:
    with tour(tmp_path) as following:
        for block in ENGLISH.blocks:
            if block.language in RUN:
                following.follow(block)
    shown = [
        command for block in ENGLISH.blocks if block.language == "console" for command, _ in commands(block)
    ]
    assert len(shown) >= 15


def test_the_russian_tour_is_the_same() -> None:
    def run(document: Document) -> list[tuple[str, str, str]]:
        return [
            (block.language, block.argument, block.text) for block in document.blocks if block.language in RUN
        ]

    assert run(RUSSIAN) == run(ENGLISH)


def test_both_have_the_same_shape() -> None:
    assert [level for level, _ in RUSSIAN.headings] == [level for level, _ in ENGLISH.headings]
    assert [b.language for b in RUSSIAN.blocks] == [b.language for b in ENGLISH.blocks]
    assert [len(table) for table in RUSSIAN.tables] == [len(table) for table in ENGLISH.tables]
    assert len(ENGLISH.tables) >= 4
    other = {"README.md": "README.ru.md"}
    assert [other.get(link, link) for link in RUSSIAN.links] == [
        "README.ru.md" if link == "README.ru.md" else link for link in ENGLISH.links
    ]


def test_both_give_the_same_figures_and_defaults() -> None:
    def numbers(document: Document) -> list[list[str]]:
        found = []
        for table in document.tables:
            text = " ".join(cell for row in table for cell in row)
            found.append(sorted(re.findall(r"\d+", re.sub(r"(?<=\d)[  ](?=\d{3})", "", text))))
        return found

    assert numbers(RUSSIAN) == numbers(ENGLISH)


def test_both_name_the_same_code() -> None:
    def code(document: Document) -> set[str]:
        return set(re.findall(r"`([^`\n]+)`", document.prose))

    assert code(RUSSIAN) == code(ENGLISH)


def test_the_russian_one_is_russian() -> None:
    prose = re.sub(r"`[^`]*`|\([^)]*\)|\[[^\]]*\]", "", RUSSIAN.prose)
    cyrillic = len(re.findall(r"[а-яё]", prose, re.IGNORECASE))
    assert cyrillic > 4 * len(re.findall(r"[a-z]", prose, re.IGNORECASE))


@BOTH
def test_every_block_is_of_a_kind_that_is_checked(document: Document) -> None:
    assert {(b.language, b.argument) for b in document.blocks if b.language == "text"} == {
        ("text", "demo"),
        ("text", ""),
    }
    assert {b.language for b in document.blocks} == {"text", *RUN}
    assert document.text.count("```") == 2 * len(document.blocks)


@BOTH
def test_its_first_two_commands_are_demo_and_test(document: Document) -> None:
    first = next(block for block in document.blocks if block.language == "console")
    assert [command for command, _ in commands(first)] == ["make demo", "make test"]


@BOTH
def test_it_can_be_read_in_five_minutes(document: Document) -> None:
    """At 250 words a minute; the programs and the reference tables are looked at, not read."""
    words = re.sub(r"^\|.*$", "", document.prose, flags=re.MULTILINE).split()
    assert len(words) < 1250


def test_the_demo_ends_as_it_is_shown(tmp_path: Path) -> None:
    """What varies is who does how much; what does not are the lines, their order, and that nothing is lost."""
    done = subprocess.run(
        [Path(sys.executable).parent / "roster", "demo"],
        cwd=tmp_path,
        env={
            **{
                name: value for name, value in os.environ.items() if not name.startswith(("ROSTER_", "ETCD_"))
            },
            "TMPDIR": str(tmp_path),
            "COLUMNS": "120",
            "NO_COLOR": "1",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for document in (ENGLISH, RUSSIAN):
        (shown,) = (block for block in document.blocks if block.argument == "demo")
        assert _kinds(shown.text) <= _kinds(done.stdout)
        assert "answered 60 of 60, 0 twice, 0 lost" in " ".join(shown.text.split())
    assert "answered 60 of 60, 0 twice, 0 lost" in " ".join(done.stdout.split())


def _kinds(text: str) -> set[str]:
    """Return what each line of the demo's output is about."""
    heads = (
        r"60 of 60 commands answered, \d+ rerouted, 0 lost",
        r"NODE STATE LOAD ANSWERED",
        r"(writer|editor)-00\d (gone|ready|busy|offline|draining) ",
        r"kill -9 writer-00\d \(pid \d+\) with \d commands? in its hands|kill -9 writer-00\d \(pid",
        r"writer-004 starts",
        r"SIGTERM writer-00\d: it finishes what it has, and leaves",
        r"who did what (\w+-00\d \d+(, )?){4,5}",
        r"rerouted \d+ commands? went to another node",
        r"failover slowest [\d.]+ ms from the loss to the next node",
        r"answered 60 of 60, 0 twice, 0 lost",
    )
    found = set()
    for line in text.splitlines():
        plain = " ".join(line.split())
        found |= {head for head in heads if re.match(head, plain)}
    return found


def test_every_line_shown_of_the_demo_is_known() -> None:
    for document in (ENGLISH, RUSSIAN):
        (shown,) = (block for block in document.blocks if block.argument == "demo")
        for line in shown.text.splitlines():
            assert _kinds(line), line


@BOTH
def test_the_table_of_configuration_is_that_of_the_code(document: Document) -> None:
    (table,) = (one for one in document.tables if any("`ROSTER_TTL`" in row[0] for row in one))
    rows = {name: row for row in table for name in re.findall(r"`([A-Z_]+)`", row[0])}
    assert rows["ROSTER_TTL"][1] == f"{DEFAULT_TTL:.0f}"
    assert rows["ROSTER_RETENTION"][1] == f"{DEFAULT_RETENTION:.0f}"
    read = set()
    for file in (ROOT / "src").rglob("*.py"):
        read |= set(
            re.findall(r"""["']((?:ROSTER|ETCD|RABBITMQ)_[A-Z_]+)["']""", file.read_text(encoding="utf-8"))
        )
    # Those with NODE are given to a command by `roster register`; completion is between the shell and us.
    assert {name for name in read if "NODE" not in name and "COMPLETE" not in name} <= set(rows)
    assert set(rows) - {"NO_COLOR"} <= read


@BOTH
def test_every_command_that_it_names_is_one(document: Document) -> None:
    (sentence,) = re.findall(r"^.*`roster explain`(?:.*\n)+?.*docs/cli\.md", document.prose, re.MULTILINE)
    named = {name.removeprefix("roster ").split()[0] for name in re.findall(r"`([a-z ]+)`", sentence)}
    assert len(named) >= 8
    shown = subprocess.run(
        [Path(sys.executable).parent / "roster", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert named <= set(re.findall(r"^  ([a-z]+) ", shown, re.MULTILINE))


# -- the way of comparing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("a   b\n", "a b  \n"),
        ("AGE 3s\n", "AGE   12m\n"),
        ("took 3 ms\n", "took 17.5 ms\n"),
        ("killed (pid 12)\n", "killed (pid 4711)\n"),
        ("one ... three\n", "one two three\n"),
        ("...\nlast\n", "x\ny\nlast\n"),
        ("uid 0b5f6c1e-6a0e-4c38-9d7b-0d6a5a5f8f11\n", "uid 534bb70a-afcb-4f6b-8d81-fc665710fc71\n"),
    ],
)
def test_what_differs_from_run_to_run_is_the_same(shown: str, printed: str) -> None:
    assert same(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("0 lost\n", "1 lost\n"),
        ("LOAD 0/3\n", "LOAD 1/3\n"),
        ("ready\n", "offline\n"),
        ("one\n", "one\ntwo\n"),
        ("one\n", ""),
        ("", "one\n"),
        ("a.b\n", "axb\n"),
    ],
)
def test_what_matters_is_compared(shown: str, printed: str) -> None:
    assert not same(shown, printed)
