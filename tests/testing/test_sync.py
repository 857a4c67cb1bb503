"""A team for code that is not async: the same names, from any thread."""

from __future__ import annotations

import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from roster import Node, sync
from roster.errors import AllNodesBusyError, BusUnavailableError, RemoteError, StoreUnavailableError
from roster.testing import Member, SyncMember, SyncTeam, Team


def write(topic: str) -> dict[str, str]:
    return {"article": topic}


def test_plain_code_calls_plain_functions() -> None:
    with SyncTeam() as team:
        writer = team.add("write_article", write)
        assert team.call("write_article", {"topic": "bees"}) == {"article": "bees"}
        assert (writer.params, writer.state) == ([{"topic": "bees"}], "ready")
        assert team.ask("write_article", {"topic": "bees"}).node == writer.key == f"default/{writer.name}"
        assert [one.result for one in team.call_all("write_article", {"topic": "x"})] == [{"article": "x"}]
        assert len(team.ledger) == 3
        assert writer.node.key in repr(writer)


def test_another_is_asked_when_one_dies() -> None:
    with SyncTeam() as team, ThreadPoolExecutor(1) as pool:
        first = team.add("write_article", write)
        with first.held():
            call = pool.submit(team.ask, "write_article", {"topic": "bees"})
            assert first.started().params == {"topic": "bees"}
            assert first.asked() is first.calls[0]
            second = team.add("write_article", write)
            first.die()
            answer = call.result(10)
        assert (answer.node, answer.attempts[0].outcome) == (second.key, "unknown")
        first.restart()
        assert second.leave()
        assert team.ask("write_article", {"topic": "x"}).node == first.key


def test_the_sync_facade_meets_the_team() -> None:
    with SyncTeam() as team, sync.Orchestrator.connect(team.registry_url, team.bus_url) as orchestrator:
        writer = team.add("write_article", write)
        assert orchestrator.call("write_article", {"topic": "bees"}) == {"article": "bees"}
        writer.fails(ValueError)
        with pytest.raises(RemoteError):
            orchestrator.call("write_article", {"topic": "bees"})
        assert sorted(team.environment) == ["ROSTER_BUS", "ROSTER_REGISTRY"]


def test_every_fault_can_be_switched_on_without_async() -> None:
    with SyncTeam() as team:
        node = Node(
            {
                "apiVersion": "ai-team.dev/v1",
                "kind": "NodePassport",
                "metadata": {"name": "own"},
                "spec": {"type": "agent", "version": "1.0.0", "capabilities": [{"name": "write_article"}]},
            }
        )
        node.capability("write_article")(write)
        writer = team.add_node(node)
        with writer.full(), pytest.raises(AllNodesBusyError):
            team.call("write_article", {"topic": "x"}, on_busy="fail")
        with writer.silent(), writer.unreachable():
            assert writer.state == "ready"
        with team.store_away(), pytest.raises(StoreUnavailableError):
            team.add("write_article", write)
        with team.bus_away(), pytest.raises(BusUnavailableError):
            sync.MindBus.connect(team.bus_url)
        with writer.without_store():
            team.advance(31)
            team.settled()
            team.until(lambda: writer.state == "offline")


def test_a_team_that_is_not_open_says_so() -> None:
    team = SyncTeam()
    with pytest.raises(RuntimeError, match="not open"):
        team.add("write_article", write)
    with team:
        threads = threading.active_count()
    assert threading.active_count() < threads


@pytest.mark.parametrize(("plain", "other"), [(SyncMember, Member), (SyncTeam, Team)])
def test_both_forms_have_the_same_names(plain: Any, other: Any) -> None:
    internal = {"ask_for_sign_of_life", "stream"}
    for name, method in inspect.getmembers(other, inspect.isfunction):
        if name.startswith("_") or name in internal:
            continue
        assert hasattr(plain, name), name
        wanted, given = (
            inspect.signature(method).parameters,
            inspect.signature(getattr(plain, name)).parameters,
        )
        assert list(given) == list(wanted) or "options" in given, name
