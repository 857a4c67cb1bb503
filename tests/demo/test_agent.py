"""The demo's agents, tested as a user of Roster tests his own: no servers, no sleeps."""

from __future__ import annotations

import asyncio
from importlib import resources
from pathlib import Path

import pytest

from roster.cli.demo.agent import edit_text, make, write_article
from roster.errors import Code, InvalidParamsError, NoCapableNodesError, RemoteError
from roster.testing import SyncTeam, Team


def agent(name: str) -> Path:
    """Return the path of one of the demo's passports."""
    return Path(str(resources.files("roster.cli.demo") / "passports" / f"{name}.yaml"))


async def test_a_writer_writes_three_paragraphs_and_tells_of_each(team: Team) -> None:
    writer = await team.add_node(make(str(agent("writer-001"))))
    result = await team.call("write_article", {"topic": "bees", "style": "plain"})
    assert result["article"].count("bees.") == 3
    assert result["metadata"] == {"style": "plain", "words": len(result["article"].split())}
    assert writer.calls[0].progress == [{"paragraph": number, "of": 3} for number in (1, 2, 3)]


async def test_an_editor_tidies(team: Team) -> None:
    await team.add_node(make(str(agent("editor-001"))))
    assert await team.call("edit_text", {"text": "  some   words "}) == {"edited_text": "Some words."}
    assert await team.call("edit_text", {"text": "Done!"}) == {"edited_text": "Done!"}


@pytest.mark.parametrize("name", ["writer-001", "writer-002", "writer-003", "writer-004", "editor-001"])
async def test_every_passport_of_the_demo_is_served_in_full(team: Team, name: str) -> None:
    member = await team.add_node(make(str(agent(name))))
    assert (member.name, member.state) == (name, "ready")


async def test_a_call_with_a_wrong_topic_reaches_nobody(team: Team) -> None:
    writer = await team.add_node(make(str(agent("writer-001"))))
    with pytest.raises(InvalidParamsError, match="topic"):
        await team.call("write_article", {"topic": 3})
    assert writer.calls == []


async def test_the_other_writer_is_asked_when_one_dies_in_the_middle_of_an_article(team: Team) -> None:
    first = await team.add_node(make(str(agent("writer-001"))))
    call = asyncio.create_task(team.ask("write_article", {"topic": "bees"}))
    await first.started()
    second = await team.add_node(make(str(agent("writer-002"))))
    await first.die()
    answer = await call
    assert "bees" in answer.result["article"]
    assert answer.node == second.key
    assert [asked.ended for asked in team.ledger] == ["lost", "result"]


async def test_a_writer_edits_when_the_editor_is_gone(team: Team) -> None:
    editor = await team.add_node(make(str(agent("editor-001"))))
    writer = await team.add_node(make(str(agent("writer-001"))))
    await editor.leave()
    assert (await team.ask("edit_text", {"text": "x"})).node == writer.key
    await writer.leave()
    with pytest.raises(NoCapableNodesError):
        await team.call("edit_text", {"text": "x"})


async def test_two_writers_share_the_work(team: Team) -> None:
    writers = [await team.add_node(make(str(agent(f"writer-00{number}")))) for number in (1, 2)]
    topics = [{"topic": str(number)} for number in range(6)]
    await asyncio.gather(*(team.call("write_article", params) for params in topics))
    assert [len(writer.calls) for writer in writers] == [3, 3]


def test_the_functions_alone_are_enough_for_a_test_that_is_not_async(sync_team: SyncTeam) -> None:
    editor = sync_team.add("edit_text", edit_text)
    sync_team.add("write_article", write_article)
    editor.fails(RemoteError("out of ink", code=Code.UNAVAILABLE))
    with pytest.raises(RemoteError, match="out of ink"):
        sync_team.call("edit_text", {"text": "x"})
    assert sync_team.call("edit_text", {"text": "x"}) == {"edited_text": "X."}
