"""A team: nodes from functions, calls as in production, and a ledger of what was asked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from roster import Context, Node, Orchestrator
from roster.errors import (
    AllNodesBusyError,
    ConfigError,
    InvalidParamsError,
    NameConflictError,
    NodeError,
    RemoteError,
)
from roster.testing import Team
from roster.testing.ledger import Asked


def write(topic: str, style: str = "plain") -> dict[str, str]:
    """Write about a topic."""
    return {"article": f"{topic}, {style}"}


async def test_a_node_is_made_from_a_plain_function() -> None:
    async with Team() as team:
        writer = await team.add("write_article", write)
        assert await team.call("write_article", {"topic": "bees"}) == {"article": "bees, plain"}
        assert writer.params == [{"topic": "bees"}]
        assert (writer.state, writer.name, writer.key) == (
            "ready",
            "write-article-1",
            "default/write-article-1",
        )


async def test_the_passport_comes_from_the_signature_so_a_wrong_call_is_refused_before_it_is_sent() -> None:
    async with Team() as team:
        writer = await team.add("write_article", write)
        declared = writer.node.passport.capability("write_article")
        assert declared is not None
        assert declared.description == "Write about a topic."
        with pytest.raises(InvalidParamsError, match="topic") as caught:
            await team.call("write_article", {"topic": 3})
        assert caught.value.outcome == "not_sent"
        assert writer.calls == []


async def test_what_the_passport_should_say_can_be_said() -> None:
    async with Team() as team:
        member = await team.add(
            "translate",
            lambda text: text,
            name="polyglot",
            namespace="lab",
            labels={"tier": "gold"},
            capacity=7,
            input_schema={"text": "string"},
            output_schema="string",
            idempotent=True,
            version="2.1.0",
            timeout=5.0,
        )
        record = await team.registry.get("lab/polyglot")
        assert record.capacity == 7
        assert dict(record.labels) == {"tier": "gold"}
        assert record.capabilities == {"translate": "2.1.0"}
        declared = member.node.passport.capability("translate")
        assert declared is not None
        assert declared.idempotent is True
        assert await team.call(
            "translate", {"text": "да"}, version=">=2", selector="tier=gold", namespace="lab"
        )


async def test_a_function_that_cannot_serve_is_refused() -> None:
    async with Team() as team:
        with pytest.raises(NodeError, match=r"\*words cannot be filled"):
            await team.add("talk", lambda *words: words)
        await team.add("write_article", write, name="one")
        with pytest.raises(NameConflictError):
            await team.add("write_article", write, name="one")


async def test_a_node_of_ones_own_joins_with_its_handlers() -> None:
    node = Node(
        {
            "apiVersion": "ai-team.dev/v1",
            "kind": "NodePassport",
            "metadata": {"name": "own"},
            "spec": {"type": "agent", "version": "1.0.0", "capabilities": [{"name": "echo"}]},
        }
    )
    node.capability("echo")(lambda text: text)
    async with Team() as team:
        member = await team.add_node(node)
        assert await team.call("echo", {"text": "x"}) == "x"
        assert member.node is node
        with pytest.raises(NodeError, match="runs already"):
            await team.add_node(node)
        with pytest.raises(NodeError, match="has its handlers"):
            await team.add_node(Node(node.passport), {"echo": str})


async def test_a_passport_joins_with_functions() -> None:
    async with Team() as team:
        document = {
            "apiVersion": "ai-team.dev/v1",
            "kind": "NodePassport",
            "metadata": {"name": "pair"},
            "spec": {"type": "agent", "version": "1.0.0", "capabilities": [{"name": "a"}, {"name": "b"}]},
        }
        await team.add_node(document, {"a": lambda: "A", "b": lambda: "B"})
        assert (await team.call("a"), await team.call("b")) == ("A", "B")


async def test_the_ledger_says_who_was_asked_what_by_whom_and_how_it_ended() -> None:
    async with Team() as team:

        async def outer(topic: str, context: Context) -> object:
            context.progress(step=1)
            return await team.call("write_article", {"topic": topic})

        def broken() -> None:
            raise ValueError("no")

        await team.add("write_article", write, name="writer")
        await team.add("publish", outer, name="publisher")
        await team.add("break", broken, name="breaker")
        await team.call("publish", {"topic": "bees"}, priority=4)
        with pytest.raises(RemoteError):
            await team.call("break")
        first, second, third = team.ledger
        assert (first.capability, first.node, first.priority) == ("publish", "default/publisher", 4)
        assert (first.caller, first.progress) == (team.orchestrator.team.source, [{"step": 1}])
        assert (second.params, second.ancestors) == ({"topic": "bees"}, ("default/publisher",))
        assert (second.ended, second.result, second.started) == ("result", {"article": "bees, plain"}, True)
        assert third.ended == "error"
        assert isinstance(third.error, RemoteError)
        assert team.ledger.of("break", node="default/breaker") == [third]
        assert str(third).endswith("failed: ValueError: no")
        assert team.ledger[-1] is third
        assert team.ledger[:2] == [first, second]
        assert str(team.ledger).count("\n") == 2
        team.ledger.clear()
        assert (len(team.ledger), str(team.ledger)) == (0, "nobody was asked")


async def test_waiting_for_what_does_not_come_fails_with_words() -> None:
    async with Team() as team:
        writer = await team.add("write_article", write)
        with pytest.raises(
            AssertionError, match=r"waited 0\.05 s in vain: default/write-article-1 to be asked 1 times"
        ):
            await writer.asked(timeout=0.05)
        with pytest.raises(AssertionError, match="nobody was asked"):
            await team.ledger.wait(2, capability="write_article", timeout=0.05)


async def test_a_call_taken_back_is_written_down_as_such() -> None:
    async with Team() as team:

        async def forever() -> None:
            await asyncio.Event().wait()

        member = await team.add("wait", forever)
        call = asyncio.create_task(team.call("wait"))
        assert isinstance(await member.started(), Asked)
        call.cancel()
        await team.until(lambda: member.calls[0].ended == "cancelled")


async def test_teams_do_not_see_each_other() -> None:
    async with Team() as one, Team() as other:
        await one.add("write_article", write)
        assert await other.registry.find() == []
        assert one.registry_url != other.registry_url


async def test_code_that_connects_by_itself_meets_the_team(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Team() as team:
        writer = await team.add("write_article", write)
        for name, value in team.environment.items():
            monkeypatch.setenv(name, value)
        async with Orchestrator.connect() as own:
            assert await own.call("write_article", {"topic": "bees"}) == {"article": "bees, plain"}
            await writer.die()  # known to every copy when it is over
            assert (await own.registry.get(writer.key)).state == "offline"
            async with team.bus_away(), team.store_away():
                pass
            await team.add("write_article", write)
            assert await own.call("write_article", {"topic": "tides"})


async def test_mindbus_and_streams_work_on_the_team() -> None:
    async with Team() as team:

        def count(context: Context) -> str:
            context.progress(n=1)
            return "done"

        member = await team.add("count", count)
        assert [event.type async for event in team.stream("count")] == ["progress", "result"]
        answer = await team.mindbus.send_command(queue=member.node.passport.mindbus_queue, action="count")
        assert await answer.result(timeout=10) == "done"
        assert [one.result for one in await team.call_all("count")] == ["done"]


async def test_a_team_is_opened_once_and_used_open() -> None:
    team = Team()
    with pytest.raises(ConfigError, match="not open"):
        await team.add("write_article", write)
    async with team:
        with pytest.raises(ConfigError, match="open already"):
            await team.__aenter__()


async def test_a_handler_left_hanging_does_not_hold_the_end_up() -> None:
    async with Team() as team:

        async def forever() -> None:
            await asyncio.Event().wait()

        member = await team.add("wait", forever)
        call = asyncio.create_task(team.call("wait"))
        await member.started()
    assert isinstance((await asyncio.gather(call, return_exceptions=True))[0], Exception)


async def test_real_engines_can_be_put_under_a_team(tmp_path: Path) -> None:
    async with Team(f"sqlite:///{tmp_path}/registry.db", f"local://{tmp_path}/bus") as team:
        first = await team.add("write_article", write)
        second = await team.add("write_article", write)
        async with first.held(), second.held():
            call = asyncio.create_task(team.ask("write_article", {"topic": "bees"}))
            await team.ledger.wait()
            died = next(member for member in (first, second) if member.calls)
            await died.started()
            await died.die()
            assert died.state == "offline"
        assert (await call).attempts[0].outcome == "unknown"
        async with team.store_away():
            with pytest.raises(Exception, match="taken it away"):
                await team.add("write_article", write)
        with pytest.raises(ConfigError, match="in memory"):
            await team.advance(1)


async def test_all_busy_is_what_it_is_in_production() -> None:
    async with Team() as team:

        async def forever() -> None:
            await asyncio.Event().wait()

        member = await team.add("wait", forever, capacity=1)
        call = asyncio.create_task(team.call("wait"))
        await member.started()
        with pytest.raises(AllNodesBusyError):
            await team.call("wait", on_busy="fail")
        call.cancel()
