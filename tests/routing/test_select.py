"""The strategies on a list: dicts as the founding document has them, passports and records alike."""

import random
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from tests.routing.nodes import FakeNode

from roster.errors import ConfigError, NoCapableNodesError
from roster.passport import NodePassport
from roster.routing import RoundRobin, select_best_node, select_least_loaded


def passport(
    name: str, active: int | None = 0, capacity: int | None = 3, state: str | None = "ready"
) -> dict[str, Any]:
    """A passport as the founding document's code holds it: a plain dict from YAML."""
    return {
        "apiVersion": "ai-team.dev/v1",
        "kind": "NodePassport",
        "metadata": {"name": name, "namespace": "ai-team"},
        "spec": {
            "type": "agent",
            "version": "1.0.0",
            "capabilities": [{"name": "write_article"}],
            "communication": {"mindbus_queue": f"agent.{name}"},
            "resources": {} if capacity is None else {"max_concurrent_tasks": capacity},
        },
        "status": ({} if state is None else {"state": state})
        | ({} if active is None else {"active_tasks": active}),
    }


def test_the_founding_documents_lines_run_on_plain_dicts() -> None:
    nodes = [passport("busy", 2), passport("idle", 0), passport("half", 1)]
    target = select_least_loaded(nodes)
    assert target["spec"]["communication"]["mindbus_queue"] == "agent.idle"
    assert select_best_node(nodes) is nodes[1]


def test_load_is_a_fraction_of_the_capacity() -> None:
    assert (
        select_least_loaded([passport("small", 1, 2), passport("large", 4, 10)])["metadata"]["name"]
        == "large"
    )


def test_a_node_passport_and_a_thing_with_a_passport_and_a_record_do_as_well() -> None:
    @dataclass
    class Holder:
        passport: Any

    typed = NodePassport.parse(yaml.safe_dump(passport("typed", 1, 4)))
    for light, heavy in [
        (typed, passport("x", 2, 4)),
        (Holder(typed), Holder(passport("x", 2, 4))),
        (FakeNode("a", 1, 4), FakeNode("b", 2, 4)),
        (FakeNode("a", 1, 4), passport("x", 2, 4)),
    ]:
        for _ in range(10):
            assert select_least_loaded([heavy, light]) is light


def test_equals_are_drawn_by_chance_and_the_chance_can_be_given() -> None:
    nodes = [FakeNode(f"n{number}") for number in range(5)]
    assert {select_least_loaded(nodes).name for _ in range(200)} == {node.name for node in nodes}
    drawn = [[select_best_node(nodes, rng=random.Random(seed)).name for seed in range(20)] for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_an_empty_list_is_nobody() -> None:
    with pytest.raises(NoCapableNodesError, match="the list is empty"):
        select_least_loaded([])


def test_a_generator_is_a_list_too() -> None:
    assert select_least_loaded(node for node in [FakeNode("a")]).name == "a"


@pytest.mark.parametrize("state", ["draining", "offline", "starting"])
def test_nodes_that_say_they_take_nothing_are_passed_over(state: str) -> None:
    assert select_least_loaded([passport("x", state=state), passport("y", 3)])["metadata"]["name"] == "y"
    with pytest.raises(NoCapableNodesError, match=f"ai-team/x: state {state}"):
        select_least_loaded([passport("x", state=state)])


def test_nodes_of_unknown_state_come_last_and_full_ones_after_those_with_room() -> None:
    ready, full = FakeNode("ready", 2), FakeNode("full", 3)
    unknown, unknown_full = FakeNode("u", state="unknown"), FakeNode("uf", 4, state="unknown")
    left = [unknown_full, full, unknown, ready]
    for expected in (ready, full, unknown, unknown_full):
        assert select_least_loaded(left) is expected
        left.remove(expected)


def test_among_full_ones_the_least_overloaded_is_chosen() -> None:
    assert select_least_loaded([FakeNode("a", 9, 3), FakeNode("b", 5, 3), FakeNode("c", 7, 3)]).name == "b"


def test_what_says_nothing_is_ready_idle_and_takes_one() -> None:
    silent = passport("silent", None, None, None)
    assert select_least_loaded([passport("half", 1, 2), silent]) is silent
    assert select_least_loaded([{"metadata": None, "status": "odd"}]) == {"metadata": None, "status": "odd"}


@pytest.mark.parametrize("hostile", ["many", -3, 1.5, float("nan"), True, 10**40, None])
def test_hostile_numbers_do_not_disturb_the_choice_among_the_others(hostile: Any) -> None:
    nodes = [passport("odd", hostile, hostile), passport("one", 1), passport("two", 2)]
    assert select_least_loaded(nodes[1:] + nodes[:1])["metadata"]["name"] in ("odd", "one")


def test_a_name_begins_afresh_and_an_instance_remembers_its_turn() -> None:
    nodes = [FakeNode(f"n{number}") for number in range(4)]
    turn = RoundRobin()
    names = [select_best_node(nodes, turn).name for _ in range(8)]
    assert len(set(names[:4])) == 4
    assert names[4:] == names[:4]
    assert {select_best_node(nodes, "round_robin").name for _ in range(200)} == {node.name for node in nodes}


def test_sticky_goes_by_the_key_whatever_the_shape_of_the_node() -> None:
    records = [FakeNode(f"n{number}", namespace="ai-team") for number in range(10)]
    dicts = [passport(f"n{number}") for number in range(10)]
    for key in ("a", "b", "c", "d"):
        chosen = select_best_node(records, "sticky", key=key)
        assert select_best_node(dicts[::-1], "sticky", key=key)["metadata"]["name"] == chosen.name
    with pytest.raises(ConfigError, match="needs a key"):
        select_best_node(records, "sticky")


def test_what_is_no_node_is_said() -> None:
    with pytest.raises(TypeError, match="not int"):
        select_least_loaded([1])


def test_an_unknown_strategy_is_said() -> None:
    with pytest.raises(ConfigError, match="choose one of"):
        select_best_node([FakeNode("a")], "best")
