"""What users write with `roster.testing`, as mypy --strict must see it; the tests run it too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_type

from roster import Node, RemoteError
from roster.orchestrator import CallAnswer, NodeAnswer
from roster.testing import Asked, Ledger, Member, SyncMember, SyncTeam, Team


def work(topic: str) -> dict[str, str]:
    """Return the topic."""
    return {"topic": topic}


async def async_team() -> None:
    """Use every public name of the async form."""
    async with Team(strategy="round_robin") as team:
        member = await team.add("work", work, name="one", capacity=2, labels={"a": "b"})
        assert_type(member, Member)
        assert_type(member.node, Node)
        assert_type(member.state, str)
        assert_type(member.calls, list[Asked])
        assert_type(member.params, list[dict[str, Any]])
        assert_type(await team.call("work", {"topic": "x"}), Any)
        assert_type(await team.ask("work", {"topic": "x"}), CallAnswer)
        assert_type(await team.call_all("work", {"topic": "x"}), list[NodeAnswer])
        assert_type(team.ledger, Ledger)
        assert_type(team.ledger[0], Asked)
        assert_type(team.ledger[:1], list[Asked])
        assert_type(await member.asked(), Asked)
        assert_type(team.environment, dict[str, str])
        member.fails(RemoteError("no"), times=0)
        member.fails(KeyError, times=0)
        async with member.held() as held, team.store_away() as same:
            assert_type(held, Member)
            assert_type(same, Team)
        assert_type(await member.leave(), bool)


def plain_team() -> None:
    """Use the form that is not async."""
    with SyncTeam() as team:
        member = team.add("work", work)
        assert_type(member, SyncMember)
        assert_type(team.ask("work", {"topic": "x"}), CallAnswer)
        params: Mapping[str, object] = member.params[0]
        assert params == {"topic": "x"}
        with member.silent() as silent:
            assert_type(silent, SyncMember)
