"""A card that is run with answers from a file goes the ways that it would go with nodes, at once."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from roster.errors import ConfigError, DocumentError
from roster.orchestrator.runs.mockfile import Mocks
from roster.orchestrator.runs.mocks import MockCall, run_mocked
from roster.orchestrator.runs.record import RunRecord

Calls = list[MockCall]


async def run(
    directory: Path, steps: str, mocks: str, inputs: dict[str, Any] | None = None, calls: Calls | None = None
) -> RunRecord:
    """Run steps with mocks."""
    card, file = directory / "card.yaml", directory / "mocks.yaml"
    card.write_text(f"name: card\nsteps:\n{textwrap.indent(textwrap.dedent(steps), '  ')}")
    file.write_text(textwrap.dedent(mocks))
    return await run_mocked(card, inputs, Mocks.load(file), calls=calls)


def took(record: RunRecord) -> float:
    """Return the seconds that a run counts."""
    assert record.created_at is not None
    assert record.ended_at is not None
    return (
        datetime.fromisoformat(record.ended_at) - datetime.fromisoformat(record.created_at)
    ).total_seconds()


async def test_an_action_brings_what_the_file_says(tmp_path: Path) -> None:
    calls: Calls = []
    record = await run(
        tmp_path,
        """\
        - {id: write, action: write, params: {topic: "${input.topic}"}, output: draft}
        - {type: complete, result: "${draft.text} (${draft.by})"}
        """,
        'mocks: {write: {result: {text: "All about ${params.topic}", by: "${step} ${call}"}}}',
        {"topic": "bees"},
        calls,
    )

    assert (record.state, record.status, record.result) == (
        "succeeded",
        "success",
        "All about bees (write 1)",
    )
    assert calls == [MockCall("write", {"topic": "bees"}, "write")]
    assert [(step.id, step.kind, step.state, step.node) for step in record.steps] == [
        ("write", "action", "succeeded", "mock"),
        ("step-2", "complete", "succeeded", None),
    ]
    assert record.steps[0].attempts[0]["outcome"] == "ok"


async def test_the_record_has_the_shape_of_every_record(tmp_path: Path) -> None:
    record = await run(tmp_path, "- {action: write}", "mocks: {write: {result: 1}}")

    assert list(record.to_dict()) == list(
        RunRecord(id="", card="", digest="", state="pending", inputs={}).to_dict()
    )


async def test_answers_come_one_by_one_and_the_last_again(tmp_path: Path) -> None:
    record = await run(
        tmp_path,
        """\
        - {type: foreach, items: [a, b, c, d], do: {action: ask, output: answer}, output: all}
        - {type: complete, result: "${all}"}
        """,
        "mocks: {ask: [{result: 1, times: 2}, {result: 2}, {result: 3}]}",
    )
    assert record.result == [1, 1, 2, 3]


async def test_a_condition_on_the_params_decides(tmp_path: Path) -> None:
    record = await run(
        tmp_path,
        """\
        - type: foreach
          items: [de, fr, de]
          as: lang
          do: {action: translate, params: {lang: "${lang}"}, output: word}
          output: all
        - {type: complete, result: "${all}"}
        """,
        """\
        mocks:
          translate:
            - {result: bees}
            - {when: '${params.lang} == "de"', result: Bienen}
        """,
    )
    assert record.result == ["Bienen", "bees", "Bienen"]


async def test_a_failure_is_tried_again_and_then_leads_on(tmp_path: Path) -> None:
    steps = """\
        - {id: fetch, action: fetch, output: page, retry: {max_attempts: 3, delay: 10m, backoff: linear, on_failure: sorry}}
        - {type: complete, result: "${page}"}
        - {id: sorry, type: complete, status: failure, result: nothing}
        """
    again = await run(
        tmp_path,
        steps,
        "mocks: {fetch: [{error: {code: UNAVAILABLE, message: away, retryable: true}, times: 2}, {result: page}]}",
    )
    assert (again.state, again.result) == ("succeeded", "page")
    assert [one["error"] for one in again.steps[0].attempts] == ["away", "away", None]
    assert took(again) == pytest.approx(1800, abs=1)  # counted, not waited for

    never = await run(tmp_path, steps, "mocks: {fetch: {error: {message: 'no ${step}'}}}")
    assert (never.state, never.result, never.error and never.error["type"]) == (
        "failed",
        "nothing",
        "Completed",
    )


async def test_an_error_has_the_type_and_code_that_the_file_says(tmp_path: Path) -> None:
    record = await run(
        tmp_path, "- {id: a, action: a}", "mocks: {a: {error: {type: NoCapableNodesError, message: nobody}}}"
    )
    assert record.error == {
        "code": "NOT_FOUND",
        "type": "NoCapableNodesError",
        "message": "nobody",
        "retryable": False,
        "outcome": "refused",
        "step": "a",
    }


async def test_an_answer_that_takes_longer_than_the_step_may_is_a_timeout(tmp_path: Path) -> None:
    record = await run(
        tmp_path, "- {id: slow, action: slow, timeout: 2s}", "mocks: {slow: {result: 1, delay: 3s}}"
    )
    assert record.error is not None
    assert (record.error["type"], record.error["step"]) == ("CallTimeoutError", "slow")
    assert took(record) == pytest.approx(2, abs=0.1)


async def test_of_two_branches_the_faster_wins_and_the_other_is_cancelled(tmp_path: Path) -> None:
    record = await run(
        tmp_path,
        """\
        - id: race
          type: parallel
          wait_for: any
          branches:
            - {id: slow, action: slow, timeout: 1h, output: won}
            - [{id: nap, type: wait, duration: 10m}, {id: fast, action: fast, output: won}]
        - {type: complete, result: "${won}"}
        """,
        "mocks: {slow: {result: slow, delay: 20m}, fast: {result: fast, delay: 1m}}",
    )
    assert record.result == "fast"
    assert {step.id: step.state for step in record.steps}["slow"] == "cancelled"
    assert took(record) == pytest.approx(660, abs=1)


async def test_loops_within_loops_end_and_keep_their_order(tmp_path: Path) -> None:
    record = await run(
        tmp_path,
        """\
        - type: foreach
          items: [3, 1, 2]
          as: a
          max_concurrency: 3
          do:
            type: foreach
            items: [x, y]
            as: b
            max_concurrency: 2
            do: {action: join, params: {a: "${a}", b: "${b}"}, output: joined}
            output: inner
          output: all
        - {type: complete, result: "${all}"}
        """,
        'mocks: {join: {result: "${params.a}${params.b}", delay: 1m}}',
    )
    assert record.result == [["3x", "3y"], ["1x", "1y"], ["2x", "2y"]]
    assert took(record) == pytest.approx(60, abs=1)


async def test_complete_in_a_branch_ends_the_run(tmp_path: Path) -> None:
    record = await run(
        tmp_path,
        """\
        - type: parallel
          branches:
            - {id: stop, type: complete, status: cancelled, result: enough}
            - {id: never, type: wait, duration: 1d}
        """,
        "mocks: {}",
    )
    assert (record.state, record.result) == ("cancelled", "enough")


async def test_events_come_where_the_file_has_them(tmp_path: Path) -> None:
    steps = """\
        - {id: ready, type: wait, event: "printer_${input.n}", timeout: 1h, on_timeout: late, output: pages}
        - {type: complete, result: "${pages}"}
        - {id: late, type: complete, result: too late}
        """
    assert (await run(tmp_path, steps, "events: {printer_1: {n: 3}}", {"n": 1})).result == {"n": 3}
    late = await run(tmp_path, steps, "events: {printer_1: {n: 3}}", {"n": 2})
    assert late.result == "too late"
    assert took(late) == pytest.approx(3600, abs=1)


async def test_people_say_what_the_file_has(tmp_path: Path) -> None:
    steps = """\
        - {id: review, type: human_checkpoint, message: Good?, output: said}
        - {condition: "${said.grade} == 1", then: complete, else: review}
        """
    mocks = """\
        approvals:
          review:
            - {answer: approve, data: {grade: 3}}
            - {answer: approve, by: ada, comment: good, data: {grade: 1}}
        """
    record = await run(tmp_path, steps, mocks)
    assert record.result == {"said": {"approved": True, "by": "ada", "comment": "good", "grade": 1}}
    assert [step.visit for step in record.steps if step.id == "review"] == [1, 2]

    rejected = await run(tmp_path, steps, "approvals: {review: reject}")
    assert rejected.error is not None
    assert rejected.error["type"] == "Rejected"
    nobody = await run(tmp_path, steps, "mocks: {}")
    assert nobody.error is not None
    assert nobody.error["type"] == "CallTimeoutError"


@pytest.mark.parametrize(
    ("said", "state", "result"),
    [
        ("[approve, approve]", "succeeded", 7),
        ("skip", "succeeded", None),
        ("reject", "failed", None),
        ("approve", "failed", None),
    ],
)
async def test_a_person_decides_after_a_failure(tmp_path: Path, said: str, state: str, result: Any) -> None:
    record = await run(
        tmp_path,
        """\
        - {id: risky, action: risky, output: answer, retry: {on_failure: escalate}}
        - {type: complete, result: "${answer}"}
        """.replace('"${answer}"', '"${answer}"' if result else "null"),
        f"mocks: {{risky: [{{error: {{message: no}}, times: 2}}, {{result: 7}}]}}\napprovals: {{risky: {said}}}",
    )
    assert (record.state, record.result) == (state, result)


async def test_a_card_that_a_card_runs_has_the_same_answers(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "inner.yaml").write_text(
        "steps:\n"
        '  - {id: double, action: double, params: {n: "${input.n}"}, output: twice}\n'
        '  - {type: complete, result: "${twice}"}\n'
    )
    record = await run(
        tmp_path,
        """\
        - {id: outer, type: subprocess, card: parts/inner.yaml, params: {n: 4}, output: got}
        - {type: complete, result: "${got}"}
        """,
        'mocks: {double: {result: "${params.n}${params.n}"}}',
    )
    assert record.result == "44"
    assert [step.key for step in record.steps] == [
        "outer#1",
        "outer#1/1/double#1",
        "outer#1/1/step-2#1",
        "step-2#1",
    ]


async def test_a_run_has_no_more_time_than_its_card_gives_it(tmp_path: Path) -> None:
    card = {
        "timeout": "1h",
        "steps": [{"id": "a", "action": "a", "retry": {"max_attempts": 5, "delay": "30m"}}],
    }
    file = tmp_path / "mocks.yaml"
    file.write_text("default: {error: {message: no}}")
    record = await run_mocked(card, {}, Mocks.load(file))
    assert record.error is not None
    assert "3600 s" in record.error["message"]


@pytest.mark.parametrize(
    ("mocks", "said"),
    [
        (
            "mocks: {other: {result: 1}}",
            "mocks.yaml: no mock for the action write (step draft): add write under mocks",
        ),
        ("mocks: {write: {result: 1, times: 1}}", "none of the mocks of the action write (step draft) fits"),
        ("mocks: {write: {result: 1, when: 'params.n == 2'}}", "none of the mocks of the action write"),
        (
            "mocks: {write: {result: '${params.m}'}}",
            'mocks.yaml:1: mocks.write.result: params has no field "m"',
        ),
        ("mocks: {write: {result: 1, when: 'params.m == 2'}}", "mocks.yaml:1: mocks.write.when: "),
    ],
)
async def test_what_the_file_lacks_is_no_failure_of_the_card(tmp_path: Path, mocks: str, said: str) -> None:
    steps = """\
        - type: parallel
          branches:
            - {id: draft, action: write, params: {n: 1}, retry: {on_failure: continue}}
            - {id: again, action: write, params: {n: 1}, retry: {on_failure: continue}}
        """
    with pytest.raises(ConfigError) as caught:
        await run(tmp_path, steps, mocks)
    assert said.replace("(step draft)", "") in str(caught.value).replace("(step draft)", "").replace(
        "(step again)", ""
    )


def test_a_file_is_read_strictly(tmp_path: Path) -> None:
    file = tmp_path / "mocks.yaml"
    file.write_text(
        textwrap.dedent("""\
        moks: {}
        mocks:
          a: {reslt: 1}
          b: {result: 1, error: {message: x}}
          c: {error: {message: 5, code: NOPE, kind: x}}
          d: {error: {message: x, type: ValueError}}
          e: {result: "${params.", delay: soon, times: 0, when: "=="}
          f: []
          g: yes
        events: 5
        approvals:
          review: maybe
          other: {answer: approve, data: 5}
        """)
    )
    with pytest.raises(DocumentError) as caught:
        Mocks.load(file)
    lines = [line.removeprefix(f"{file}:") for line in caught.value.lines()]
    assert [line.split(": ", 2)[1] for line in lines] == [
        "moks", "mocks.a", "mocks.a.reslt", "mocks.b", "mocks.c.error.message", "mocks.c.error.code", "mocks.c.error.kind",
        "mocks.d.error.type", "mocks.e.result", "mocks.e.delay", "mocks.e.times", "mocks.e.when", "mocks.f", "mocks.g",
        "events", "approvals.review.answer", "approvals.other.data",
    ]  # fmt: skip
    assert lines[0] == '1:1: moks: unknown field, did you mean "mocks"?'


def test_a_card_is_tested_without_the_packages_that_runs_need(tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text("steps: [{action: a, output: b}]")
    (tmp_path / "mocks.yaml").write_text("mocks: {a: {result: 1}}")
    code = (
        "import sys\n"
        "for name in ('dbos', 'sqlalchemy', 'psycopg', 'common_expression_language', 'cel'): sys.modules[name] = None\n"
        "from roster.cli import main\n"
        "sys.exit(main(['run', 'card.yaml', '--mock', 'mocks.yaml']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, '{\n  "b": 1\n}\n', "")
