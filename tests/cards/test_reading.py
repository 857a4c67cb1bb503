"""Cards in every dialect are read into one model, and a walker that knows only the model runs them."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from tests.cards.walker import Failed, Walk

from roster.cards import (
    ActionStep,
    CheckpointStep,
    CompleteStep,
    ConditionStep,
    ForeachStep,
    Limits,
    ParallelStep,
    ProcessCard,
    SubprocessStep,
    WaitStep,
    examine,
)
from roster.errors import CardError, ConfigError, DocumentError, ExpressionError

FOUNDING = """\
# Process Card
steps:
  - id: "step_write"
    action: "write_article"  # ← Capability name
    params:
      topic: ${input.topic}
"""

ARTICLE = """\
apiVersion: ai-team.dev/v1
kind: ProcessCard
metadata:
  id: "card-article-001"
  name: "article_generation"
  version: 1.0
  author: ai_team
spec:
  variables:
    topic: ""
    research_data: null
    article_text: ""
  steps:
    - id: "step_research"
      action: "research"
      params:
        topic: ${input.topic}
      output: research_data
      timeout_seconds: 180
      retry:
        max_attempts: 2
        delay_seconds: 5
        on_failure: "abort"
    - id: "step_write"
      action: "text_generation"
      params:
        prompt: "Write about: ${input.topic}\\n\\nBased on: ${research_data}"
      output: article_text
      timeout: 5m
    - id: "step_review"
      action: "text_review"
      params: {text: "${article_text}", criteria: [grammar, relevance]}
      output: review_result
    - id: "step_decision"
      condition: "${review_result.score} >= 8 && ${review_result.status} != 'rejected'"
      then: "step_publish"
      else: "step_improve"
    - id: "step_improve"
      action: "text_improvement"
      params:
        text: ${article_text}
        feedback: ${review_result.feedback}
      output: article_text
      next: "step_review"
    - id: "step_publish"
      action: "save_to_storage"
      params:
        key: "article_${task_id}"
        value: ${article_text}
    - id: "step_complete"
      type: "complete"
      status: "success"
      result: ${article_text}
"""


def kept(**found: Any) -> dict[str, Any]:
    return found


def good(text: str, **options: Any) -> ProcessCard:
    report = examine(text, source="card.yaml", **options)
    assert report.lines() == []
    assert report.card is not None
    return report.card


def test_the_founding_documents_card_is_read_and_run_as_printed() -> None:
    card = good(FOUNDING)
    (step,) = card.steps.values()
    assert isinstance(step, ActionStep)
    assert (card.name, step.id, step.action, step.next) == ("card", "step_write", "write_article", None)
    assert card.warnings == ()
    assert Walk(card, {"write_article": kept}).run(topic="bees")[0] == "success"
    assert step.params.fill(card.start({"topic": "bees"}), step="s", field="params") == {"topic": "bees"}


def test_a_card_with_a_loop_back_runs_until_its_condition_holds() -> None:
    card = good(ARTICLE)
    saved: list[dict[str, Any]] = []
    reviews: list[str] = []

    def review(text: str, criteria: list[str]) -> dict[str, Any]:
        reviews.append(text)
        return {"score": 6 + len(reviews), "status": "ok", "feedback": "more"}

    walk = Walk(
        card,
        {
            "research": lambda topic: {"facts": [topic]},
            "text_generation": lambda prompt: prompt,
            "text_review": review,
            "text_improvement": lambda text, feedback: f"{text} {feedback}",
            "save_to_storage": lambda **found: saved.append(found),
        },
    )
    text = 'Write about: bees\n\nBased on: {"facts": ["bees"]} more'
    assert walk.run(topic="bees") == ("success", text)
    assert saved == [{"key": "article_run-1", "value": text}]
    assert len(reviews) == 2
    research, write = card.steps["step_research"], card.steps["step_write"]
    assert isinstance(research, ActionStep)
    assert isinstance(write, ActionStep)
    assert (research.timeout, research.retry.max_attempts, research.retry.pause(1)) == (180, 2, 5)
    assert (write.timeout, write.timeout_declared, write.retry.max_attempts) == (300, True, 1)
    assert (card.id, card.version, card.author) == ("card-article-001", "1.0", "ai_team")


def test_each_loop_is_bounded_by_the_visits_of_its_steps() -> None:
    body = """
spec:
  {limit}
  steps:
    - {{id: a, action: poll, output: x}}
    - {{id: b, condition: "${{x}}", then: complete, else: a}}
"""
    for limit, options, expected in (
        ("", {}, 100),
        ("max_visits: 3", {}, 3),
        ("", {"limits": Limits(visits=7)}, 7),
    ):
        card = good(body.format(limit=limit), **options)
        walk = Walk(card, {"poll": lambda: False})
        with pytest.raises(Failed, match=f"a was entered more than {expected} times"):
            walk.run()
    card = good(
        "steps: [{id: a, action: poll, max_visits: 2, output: x}, {condition: '${x}', then: complete, else: a}]"
    )
    assert card.steps["a"].max_visits == 2


def test_branches_loops_waits_people_and_other_cards_are_run() -> None:
    card = good(
        """
metadata: {name: all}
spec:
  variables: {topic: none, parts: []}
  timeout: 2h
  steps:
    - id: split
      type: execute
      action: split
      params: {text: "${topic}"}
      output: parts
    - id: both
      type: parallel
      branches:
        - action: count
          params: {text: "${topic}"}
          output: n
        - - {action: upper, params: {text: "${topic}"}, output: big}
          - {action: upper, params: {text: "${big}!"}, output: big}
        - name: third
          steps:
            - {condition: "${parts} == []", then: complete}
            - {action: count, params: {text: third}, output: third}
      wait_for: all
      max_concurrency: 2
      output: results
    - id: each
      type: foreach
      items: ${parts}
      as: part
      do:
        - {condition: "${part} == 'skip'", then: complete}
        - {action: upper, params: {text: "${part_index}: ${part}"}, output: line}
      max_concurrency: 4
      output: lines
    - {id: pause, type: wait, duration: 5s}
    - {id: ready, type: wait, event: "ready_${n}", timeout: 5m, on_timeout: continue, output: signal}
    - id: human_approval
      type: human_checkpoint
      message: "Publish ${lines}?"
      timeout: 3600
      on_timeout: abort
      output: said
    - id: sub
      type: subprocess
      card: other.yaml
      params: {x: "${n}"}
      output: sub
    - id: bonus
      when: ${n} > 100
      action: count
      params: {text: never}
    - id: old_when
      condition: ${n} > 100
      action: count
      params: {text: never}
    - type: complete
      result: {n: "${n}", results: "${results}", lines: "${lines}", sub: "${sub}", said: "${said.said}"}
"""
    )
    other = good(
        "steps: [{action: count, params: {text: '${input.x}'}, output: y}, {type: complete, result: '${y}'}]"
    )
    walk = Walk(
        card,
        {
            "split": lambda text: text.split(),
            "count": lambda text: len(str(text)),
            "upper": lambda text: text.upper(),
        },
        {"other.yaml": other},
    )
    assert walk.run(topic="a skip b") == (
        "success",
        {
            "n": 8,
            "results": [8, "A SKIP B!", 5],
            "lines": ["0: A", None, "2: B"],
            "sub": 1,
            "said": 'Publish ["0: A", null, "2: B"]?',
        },
    )
    assert {"bonus", "old_when"} <= set(walk.visited)
    kinds = {step.id: type(step) for step in card.steps.values()}
    assert kinds["both"] is ParallelStep
    assert kinds["each"] is ForeachStep
    assert kinds["pause"] is kinds["ready"] is WaitStep
    assert kinds["human_approval"] is CheckpointStep
    assert kinds["sub"] is SubprocessStep
    assert kinds["step-10"] is CompleteStep
    assert {"both.1.1", "both.2.1", "both.2.2", "both.3.1", "both.3.2", "each.1.1", "each.1.2"} <= set(kinds)
    assert card.timeout == 7200
    both, sub = card.steps["both"], card.steps["sub"]
    assert isinstance(both, ParallelStep)
    assert isinstance(sub, SubprocessStep)
    assert (both.need, both.max_concurrency, sub.timeout) == (3, 2, None)


@pytest.mark.parametrize(
    ("fallback", "path", "status"),
    [
        ("abort", ["a"], None),
        ("escalate", ["a"], None),
        ("continue", ["a", "b"], "success"),
        ("c", ["a", "c"], "failure"),
        ("complete", ["a"], "success"),
    ],
)
def test_what_follows_a_failure(fallback: str, path: list[str], status: str | None) -> None:
    card = good(
        f"""
steps:
  - {{id: a, action: fail, retry: {{max_attempts: 3, delay: 1m, backoff: exponential, on_failure: {fallback}}}}}
  - {{id: b, condition: "${{input.x}} == 1", then: complete}}
  - {{id: c, type: complete, status: failure, result: sorry}}
"""
    )
    tried: list[int] = []

    def fail() -> None:
        tried.append(1)
        raise Failed

    walk = Walk(card, {"fail": fail})
    if status is None:
        with pytest.raises(Failed, match=fallback):
            walk.run(x=1)
    else:
        assert walk.run(x=1)[0] == status
    assert (walk.visited, len(tried)) == (path, 3)
    step = card.steps["a"]
    assert isinstance(step, ActionStep)
    assert [step.retry.pause(attempt) for attempt in (1, 2, 3, 9)] == [60, 120, 240, 3600]


def test_a_step_named_complete_is_led_to_rather_than_the_end() -> None:
    card = good(
        "steps: [{id: a, condition: true, then: complete}, {id: complete, type: complete, result: 7}]"
    )
    assert Walk(card, {}).run() == ("success", 7)


def test_what_older_cards_say_means_the_same() -> None:
    new = good(
        "steps: [{id: a, action: x, timeout: 3m, when: '${input.n > 1}', "
        "retry: {max_attempts: 2, delay: 1m30s}, next: complete}]"
    )
    old = good(
        "steps: [{id: a, type: execute, action: x, timeout_seconds: 180, condition: '${input.n} > 1', "
        "retry: {max_attempts: 2, delay_seconds: 90}, next: complete}]"
    )
    assert new.steps == old.steps
    report = examine("apiVersion: ai.team/v1\nkind: ProcessCard\nspec: {steps: [{action: x}]}")
    assert report.ok
    assert "is read as ai-team.dev/v1" in report.warning_lines()[0]


def test_names_may_stand_at_the_top_and_json_is_read() -> None:
    card = good(
        '{"name": "n", "version": "2", "variables": {"v": 1}, "steps": [{"action": "x", "params": {"a": "${v}"}}]}'
    )
    assert (card.name, card.version, dict(card.variables)) == ("n", "2", {"v": 1})


def test_inputs_replace_variables_of_their_name() -> None:
    card = good("{variables: {topic: bees, n: 1, task_id: own}, steps: [{action: x}]}")
    assert card.start({"topic": "ants", "extra": True}, run_id="r") == {
        "topic": "ants",
        "n": 1,
        "task_id": "own",
        "input": {"topic": "ants", "extra": True},
        "run": {"id": "r", "card": "card"},
    }


def test_a_variable_over_the_limit_is_refused() -> None:
    card = good("steps: [{id: a, action: x, output: v}]")
    card.check_variable("v", "x" * (10 * 2**20 - 10), step="a")
    with pytest.raises(CardError, match=r"step a: v: the variable is larger than 10485760 bytes"):
        card.check_variable("v", ["x" * (10 * 2**20)], step="a")
    with pytest.raises(CardError, match="input"):
        card.start({"x": "x" * (11 * 2**20)})


def test_the_digest_pins_what_a_card_says() -> None:
    one = ProcessCard.parse("{name: a, steps: [{id: a, action: x}]}")
    assert one.digest == ProcessCard.parse("steps:\n- {action: x, id: a}\nname: a\n").digest
    assert one.digest != ProcessCard.parse("{name: a, steps: [{id: a, action: y}]}").digest
    assert one.digest == ProcessCard.from_dict(json.loads(json.dumps(dict(one.document)))).digest
    assert hash(one) == hash(pickle.loads(pickle.dumps(one)))


def test_a_name_comes_from_the_file_where_the_card_has_none(tmp_path: Any) -> None:
    file = tmp_path / "morning.card.yaml"
    file.write_text(FOUNDING)
    assert ProcessCard.load(file).name == "morning.card"
    with pytest.raises(DocumentError, match="cannot read the file"):
        ProcessCard.load(tmp_path / "none.yaml")


def test_an_undefined_name_at_run_time_names_step_and_field() -> None:
    with pytest.raises(ExpressionError, match=r'step step_write: params\.topic: input has no field "topic"'):
        Walk(good(FOUNDING), {}).run()


def test_limits_are_read_from_text() -> None:
    limits = Limits().changed(" steps=200, total_time=2h,variable=1MiB,nesting=3 ")
    assert (limits.steps, limits.total_time, limits.variable, limits.nesting) == (200, 7200, 2**20, 3)
    assert Limits().changed("") == Limits()
    for text in (
        "stepz=1",
        "steps",
        "steps=0",
        "steps=1k",
        "total_time=soon",
        "nesting=99",
        "variable=1TiB",
        "total_time=0",
    ):
        with pytest.raises(ConfigError):
            Limits().changed(text)


def test_steps_say_what_they_read_and_set_and_where_they_lead() -> None:
    card = good(ARTICLE)
    found = {
        step.id: (sorted({reference.root for _, reference in step.reads()}), step.output, step.successors)
        for step in card.steps.values()
    }
    assert found["step_write"] == (["input", "research_data"], "article_text", ("step_review",))
    assert found["step_decision"] == (["review_result"], None, ("step_publish", "step_improve"))
    assert found["step_complete"] == (["article_text"], None, ())
    decision = card.steps["step_decision"]
    assert isinstance(decision, ConditionStep)
    assert (decision.then, decision.otherwise) == ("step_publish", "step_improve")
