"""Test files of cards say what is expected, and where it is not so."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from roster.errors import DocumentError
from roster.orchestrator.runs.cardtest import CardTest, run_case

CARD = """\
name: article
steps:
  - {id: write, action: write_article, params: {topic: "${input.topic}"}, output: draft}
  - {id: good, condition: "${draft.score} >= 8", then: publish, else: improve}
  - {id: improve, action: improve_text, params: {text: "${draft.text}"}, output: draft}
  - {id: publish, type: complete, result: "${draft.text}"}
"""
HEAD = """\
card: article.yaml
inputs: {topic: bees}
mocks:
  write_article: {result: {text: "All about ${params.topic}", score: 9}}
cases:
"""


def load(directory: Path, cases: str, head: str = HEAD) -> CardTest:
    (directory / "article.yaml").write_text(CARD)
    file = directory / "article_test.yaml"
    file.write_text(head + textwrap.indent(textwrap.dedent(cases), "  "))
    return CardTest.load(file)


async def differences(test: CardTest, number: int = 0) -> list[str]:
    """Return what is not as expected, as `line what: message`."""
    result = await run_case(test, test.cases[number])
    return [f"{one.line} {one.what}: {one.message}" for one in result.differences]


async def test_what_is_as_expected_has_no_difference(tmp_path: Path) -> None:
    test = load(
        tmp_path,
        """\
        - name: good
          expect:
            status: success
            result: All about bees
            calls: [{action: write_article, params: {topic: bees}, step: write}]
            steps: {write: succeeded, improve: unreached}
        - name: bad
          inputs: {topic: ants}
          mocks:
            write_article: {result: {text: x, score: 1}}
            improve_text: {error: {code: UNAVAILABLE, message: "the pen is dry"}}
          expect:
            status: failure
            error: {type: RemoteError, code: UNAVAILABLE, step: improve, message~: "pen .* dry$"}
            calls: [{action: write_article}, {action: improve_text, params: {text: x}}]
        """,
    )
    assert [case.name for case in test.cases] == ["good", "bad"]
    assert await differences(test, 0) == []
    assert await differences(test, 1) == []


async def test_each_difference_is_named_with_its_line(tmp_path: Path) -> None:
    test = load(
        tmp_path,
        """\
        - expect:
            status: failure
            result: {text: All about bees}
            error:
              message~: dry
            calls:
              - {action: write_article, params: {topic: ants}}
              - {action: improve_text}
            steps:
              improve: succeeded
        """,
    )
    assert await differences(test) == [
        "7 status: expected failure, found success",
        '8 result: expected a map with "text", found text "All about bees"',
        '10 error.message: expected one like "dry", found nothing (null)',
        '12 calls[0].params.topic: expected text "ants", found text "bees"',
        "11 calls: expected 2 calls, found 1: write_article (step write)",
        "15 steps.improve: expected succeeded, found unreached",
    ]


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        (
            "{a: [1, 2], b: true}",
            ["result.a[1]: expected the number 2, found the number 3", "result.a: expected 2 items, found 3"],
        ),
        ("{a: [1, 3, 4], b: 1}", ["result.b: expected the number 1, found true (a boolean)"]),
        ("{a: [1.0, 3, 4], b: true}", []),
        ("{a: [1, 3, 4]}", ["result.b: found true (a boolean), and none was expected"]),
        ("{a: [1, 3, 4], b: true, c: null}", ["result.c: expected nothing (null), and there is none"]),
    ],
)  # fmt: skip
async def test_values_are_compared_in_depth(tmp_path: Path, expected: str, found: list[str]) -> None:
    test = load(
        tmp_path,
        f"""\
        - mocks: {{write_article: {{result: {{score: 9, text: {{a: [1, 3, 4], b: true}}}}}}}}
          expect: {{result: {expected}}}
        """,
    )
    assert [line.partition(" ")[2] for line in await differences(test)] == found


async def test_an_action_without_a_mock_fails_the_case_and_no_other(tmp_path: Path) -> None:
    test = load(
        tmp_path,
        """\
        - mocks: {write_article: {result: {text: x, score: 1}}}
          expect: {status: failure}
        - expect: {status: success}
        """,
    )
    (said,) = await differences(test, 0)
    assert said.startswith("6 mocks: ")
    assert "no mock for the action improve_text (step improve)" in said
    assert await differences(test, 1) == []


async def test_mocks_may_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "mocks.yaml").write_text("mocks: {write_article: {result: {text: from a file, score: 8}}}")
    head = "card: article.yaml\nmocks: mocks.yaml\ninputs: {topic: bees}\ncases:\n"
    test = load(tmp_path, "- expect: {result: from a file}", head)
    assert await differences(test) == []

    (tmp_path / "mocks.yaml").write_text("mocks: {write_article: {reslt: 1}}")
    with pytest.raises(DocumentError, match=r"mocks\.yaml") as caught:
        load(tmp_path, "- expect: {result: from a file}", head)
    assert caught.value.faults[0].line == 2


def test_a_file_is_read_strictly(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as caught:
        load(
            tmp_path,
            """\
            - name: a
              expct: {}
            - name: a
              expect: {status: done, steps: {writ: succeeded, write: over}, error: {message~: "("}, calls: [{params: {}}]}
            - {name: empty, expect: {}}
            - {name: mocked, mocks: {write_article: {result: 1, when: 5}}, expect: {status: success}}
            """,
        )
    lines = [f"{fault.line} {fault.path}" for fault in caught.value.faults]
    assert lines == [
        "6 cases[0].expect", "7 cases[0].expct", "8 cases[1].name", "9 cases[1].expect.status",
        "9 cases[1].expect.steps.writ", "9 cases[1].expect.steps.write", '9 cases[1].expect.error["message~"]',
        "9 cases[1].expect.calls[0].action", "10 cases[2].expect", "11 cases[3].mocks.write_article.when",
    ]  # fmt: skip


def test_the_faults_of_the_card_are_told_as_the_cards(tmp_path: Path) -> None:
    (tmp_path / "article.yaml").write_text("steps: [{action: a, next: nowhere}]")
    file = tmp_path / "test.yaml"
    file.write_text("card: article.yaml\ncases: [{expect: {status: success}}]")
    with pytest.raises(DocumentError) as caught:
        CardTest.load(file)
    assert caught.value.source.endswith("article.yaml")
