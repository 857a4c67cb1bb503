"""Process cards on the command line: every fault with its line, the registry only when asked, pictures for people."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.cli.conftest import Result, Stage, editor, roster

GOOD = """\
name: article
steps:
  - {id: write, action: write_article, params: {topic: "${input.topic}"}, output: draft}
  - {id: edit, action: edit_text, params: {text: "${draft.article}"}, output: edited}
"""
BAD = """\
steps:
  - id: write
    action: write_article
    next: edt
  - id: edit
    action: edit_text
    params: {text: "${draft}"}
    retry: {max_attempts: 11}
"""


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "card.yaml"
    path.write_text(GOOD)
    return path


@pytest.fixture(autouse=True)
def _no_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever asks a registry that was not to be asked meets one that cannot be had.
    monkeypatch.setenv("ROSTER_REGISTRY", "etcd://127.0.0.1:1")
    monkeypatch.delenv("ROSTER_CARD_LIMITS", raising=False)


def test_a_good_card_is_ok_and_no_registry_is_asked(card: Path) -> None:
    assert roster("card", "validate", str(card)) == Result(0, f"{card}: ok (article, 2 steps)\n", "")


def test_each_fault_is_a_line_with_its_place(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(BAD)
    result = roster("card", "validate", str(bad))
    assert result.status == 1
    assert result.out.splitlines() == [
        f'{bad}:4:5: steps[0].next: no step "edt" in this list of steps, did you mean "edit"?',
        f'{bad}:7:14: steps[1].params.text: nothing sets the variable "draft": give it a first value in variables, '
        "or have the output of a step before set it",
        f"{bad}:8:13: steps[1].retry.max_attempts: expected a whole number from 1 to 10, found the number 11",
    ]


def test_several_files_directories_and_standard_input_are_read(card: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "bad.yml").write_text(BAD)
    result = roster("card", "validate", str(card), str(tmp_path / "more"), "-", stdin=GOOD.encode())
    assert result.status == 1
    assert f"{card}: ok" in result.out
    assert f"{tmp_path}/more/bad.yml:4:5" in result.out
    assert "<stdin>: ok (article, 2 steps)" in result.out
    missing = roster("card", "validate", str(tmp_path / "none.yaml"))
    assert (missing.status, "cannot read the file" in missing.out) == (1, True)


def test_programs_get_json(card: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(BAD)
    result = roster("card", "validate", str(card), str(bad), "-o", "json")
    assert result.status == 1
    good, wrong = result.json["files"]
    assert (result.json["ok"], good["ok"], good["card"], good["steps"], wrong["ok"]) == (
        False,
        True,
        "article",
        2,
        False,
    )
    assert wrong["faults"][0]["line"] == 4
    assert wrong["faults"][0]["path"] == "steps[0].next"


def test_warnings_fail_only_with_strict(tmp_path: Path) -> None:
    odd = tmp_path / "odd.yaml"
    odd.write_text("steps: [{action: write_article, parms: {}}]")
    result = roster("card", "validate", str(odd))
    assert (result.status, result.err) == (
        0,
        f'warning: {odd}:1:33: steps[0].parms: unknown field, did you mean "params"?; it is kept\n',
    )
    assert roster("card", "validate", "--strict", str(odd)).status == 1


def test_limits_come_from_options_and_the_environment(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSTER_CARD_LIMITS", "steps=1")
    assert "more than 1 steps in one card" in roster("card", "validate", str(card)).out
    assert "more than 1 steps in one card" in roster("card", "graph", str(card)).err
    assert roster("card", "validate", str(card), "--limit", "steps=2").status == 0
    wrong = roster("card", "validate", str(card), "--limit", "steps=2", "--limit", "speed=3")
    assert (wrong.status, wrong.err.startswith('error: no limit "speed" for cards')) == (1, True)


def test_strategies_are_those_that_routing_knows(tmp_path: Path) -> None:
    path = tmp_path / "card.yaml"
    path.write_text("steps: [{action: a, strategy: least_loaded}, {action: a, strategy: lazy}]")
    assert roster("card", "validate", str(path)).out.startswith(
        f'{path}:1:58: steps[1].strategy: expected one of "least_loaded"'
    )


def test_cards_that_a_card_runs_are_looked_for_beside_it(tmp_path: Path) -> None:
    main, part = tmp_path / "main.yaml", tmp_path / "parts" / "part.yaml"
    part.parent.mkdir()
    main.write_text("steps: [{type: subprocess, card: parts/part.yaml}]")
    assert "cannot read the file: No such file" in roster("card", "validate", str(main)).out
    part.write_text("steps: [{type: subprocess, card: deep.yaml}]")
    assert (
        f'{main}:1:28: steps[0].card: the card "deep.yaml" cannot be run'
        in roster("card", "validate", str(main)).out
    )
    (part.parent / "deep.yaml").write_text("steps: [{type: subprocess, card: part.yaml}]")
    assert "a card that runs itself" in roster("card", "validate", str(main)).out
    (part.parent / "deep.yaml").write_text(GOOD)
    assert roster("card", "validate", str(main)).status == 0
    (tmp_path / "secret.yaml").write_text("password: hunter2")
    (part.parent / "deep.yaml").write_text("steps: [{type: subprocess, card: ../secret.yaml}]")
    result = roster("card", "validate", str(main))
    assert result.status == 1
    assert "hunter2" not in result.out + result.err


def test_against_the_registry_each_step_has_somebody_who_takes_its_params(
    team: tuple[str, str], card: Path
) -> None:
    assert roster("card", "validate", "--against-registry", str(card)).status == 0
    card.write_text(
        "steps:\n"
        "  - {action: write_articel}\n"
        "  - {action: write_article, params: {theme: bees, words: many}}\n"
        "  - {action: write_article, selector: 'role=poet'}\n"
        "  - {action: write_article, selector: {tier: b}, params: {topic: '${input.topic}'}}\n"
    )
    assert roster("card", "validate", str(card)).status == 0
    result = roster("card", "validate", "--against-registry", str(card))
    assert result.status == 1
    contract = " (by the contract of write_article)"
    assert result.out.splitlines() == [
        f'{card}:2:6: steps[0].action: no node offers the capability "write_articel", did you mean "write_article"?',
        f"{card}:3:38: steps[1].params.theme: unknown, and no others than the known are allowed{contract}",
        f'{card}:3:51: steps[1].params.words: expected a whole number or null, found text "many"{contract}',
        f'{card}:4:6: steps[2].action: the capability "write_article" is on offer, but by no node that the '
        'selector "role=poet" matches',
    ]
    only = roster("card", "validate", "--against-registry", "-n", "default", str(card))
    assert 'no node offers the capability "write_article"' in only.out


def test_a_broken_registry_is_said_with_its_own_status(
    card: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "registry.db"
    broken.write_bytes(b"this is no database" * 100)
    monkeypatch.setenv("ROSTER_REGISTRY", f"sqlite://{broken}")
    assert roster("card", "validate", "--against-registry", str(card)).status == 3


def test_a_node_that_is_gone_offers_nothing(stage: Stage, card: Path) -> None:
    node = stage.start(editor, "editor-001")
    card.write_text("steps: [{action: edit_text}]")
    assert roster("card", "validate", "--against-registry", str(card)).status == 0
    stage.thread.run(node.stop(grace=0.1), timeout=10)
    stage.nodes.clear()
    assert "no node offers" in roster("card", "validate", "--against-registry", str(card)).out


def test_a_card_is_drawn(card: Path) -> None:
    drawn = roster("card", "graph", str(card))
    assert (drawn.status, drawn.out.splitlines()[:3]) == (
        0,
        ["flowchart TD", '  n0(["start"])', '  n2["write<br/>write_article"]'],
    )
    assert roster("card", "graph", "-", stdin=GOOD.encode()).out == drawn.out
    picture = roster("card", "graph", str(card), "-o", "svg")
    assert picture.status == 0
    assert ElementTree.fromstring(picture.out).tag.endswith("svg")


def test_a_card_that_cannot_be_read_is_not_drawn(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(BAD)
    result = roster("card", "graph", str(bad))
    assert (result.status, result.out) == (1, "")
    assert result.err.endswith(f"error: {bad} has 2 faults; correct what the lines above name\n")


def test_the_group_shows_its_commands() -> None:
    result = roster("card", "--help")
    assert result.status == 0
    assert "validate" in result.out
    assert "graph" in result.out
    assert roster("card", "nope").status == 2
