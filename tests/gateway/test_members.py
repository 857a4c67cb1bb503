"""Nodes over HTTP: a program with nothing but an HTTP client is a node like any other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.gateway.conftest import Served, Serving, events, team_passport, until

from roster import Orchestrator, Registry
from roster.errors import (
    CallTimeoutError,
    DeliveryError,
    InvalidParamsError,
    NoCapableNodesError,
    RemoteError,
)

OWN = "/api/v1/nodes/ai-team/counter-001"
COUNT: dict[str, Any] = {
    "name": "count_words",
    "input_schema": {"text": "string"},
    "output_schema": {"words": "integer"},
}


class Program:
    """What is at the other end: it registered, and takes commands one at a time."""

    def __init__(self, served: Served, uid: str) -> None:
        self.served = served
        self.uid = uid
        self.after = 0

    async def take(self, wait: float = 10.0) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []

        async def came() -> bool:
            answer = await self.served.client.get(
                f"{OWN}/commands", params={"uid": self.uid, "after": self.after, "wait": wait}
            )
            assert answer.status_code == 200, answer.text
            self.after = answer.json()["after"]
            found.extend(answer.json()["items"])
            return bool(found)

        await until(came)
        return found

    async def answer(self, id: str, **body: Any) -> int:
        return (
            await self.served.client.post(f"{OWN}/commands/{id}/result", json={"uid": self.uid, **body})
        ).status_code


async def register(served: Served, *, ttl: float = 30.0, at_once: int = 2, **more: Any) -> Program:
    document = team_passport("counter-001", COUNT, at_once=at_once)
    answer = await served.client.post("/api/v1/nodes", params={"ttl": ttl, **more}, json=document)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == OWN
    assert answer.json()["node"]["state"] == "ready"
    return Program(served, answer.json()["uid"])


@asynccontextmanager
async def caller(urls: tuple[str, str]) -> AsyncIterator[Orchestrator]:
    async with Orchestrator.connect(*urls) as orchestrator:
        yield orchestrator


async def test_a_command_goes_to_the_program_and_its_answer_comes_back(
    serving: Serving, urls: tuple[str, str]
) -> None:
    async with serving(urls) as served, caller(urls) as orchestrator:
        program = await register(served)
        calling = asyncio.create_task(orchestrator.call("count_words", {"text": "a b c"}, timeout=50))
        (command,) = await program.take()
        status = await program.answer(command["id"], result={"words": 3})

        assert (command["type"], command["capability"]) == ("command", "count_words")
        assert command["params"] == {"text": "a b c"}
        assert 0 < command["timeout"] <= 50
        assert status == 204
        assert await calling == {"words": 3}
        assert (await program.answer(command["id"], result={"words": 3})) == 410


async def test_commands_come_as_server_sent_events_too(
    serving: Serving, memory_urls: tuple[str, str]
) -> None:
    async with serving() as served, caller(memory_urls) as orchestrator:
        program = await register(served)
        async with events(served, f"{OWN}/commands/stream?uid={program.uid}") as stream:
            calling = asyncio.create_task(orchestrator.call("count_words", {"text": "a"}, timeout=50))
            name, command, place = await stream.next()
            calling.cancel()
            cancelled, notice, _ = await stream.next()

        assert (name, place) == ("command", str(command["seq"]))
        assert (cancelled, notice["id"]) == ("cancel", command["id"])
        assert await program.answer(command["id"], result={"words": 1}) == 410


async def test_a_command_whose_answer_to_the_program_was_lost_is_given_again(
    serving: Serving, memory_urls: tuple[str, str]
) -> None:
    async with serving() as served, caller(memory_urls) as orchestrator:
        program = await register(served)
        calling = asyncio.create_task(orchestrator.call("count_words", {"text": "a"}, timeout=50))
        (first,) = await program.take()
        program.after = 0
        (again,) = await program.take()
        await program.answer(again["id"], result={"words": 1})

        assert first["id"] == again["id"]
        assert await calling == {"words": 1}


async def test_an_error_of_the_program_reaches_the_caller(
    serving: Serving, memory_urls: tuple[str, str]
) -> None:
    async with serving() as served, caller(memory_urls) as orchestrator:
        program = await register(served)
        calling = asyncio.create_task(orchestrator.call("count_words", {"text": "a"}, timeout=50))
        (command,) = await program.take()
        await program.answer(command["id"], error={"message": "no model", "code": "FAILED_PRECONDITION"})

        with pytest.raises(RemoteError, match="no model") as raised:
            await calling
        assert raised.value.code == "FAILED_PRECONDITION"


async def test_a_result_against_the_output_schema_is_refused_and_the_caller_told(
    serving: Serving, memory_urls: tuple[str, str]
) -> None:
    async with serving() as served, caller(memory_urls) as orchestrator:
        program = await register(served)
        calling = asyncio.create_task(orchestrator.call("count_words", {"text": "a"}, timeout=50))
        (command,) = await program.take()
        status = await program.answer(command["id"], result={"words": "three"})

        assert status == 422
        with pytest.raises(Exception, match="output schema"):
            await calling


async def test_progress_reaches_the_caller(serving: Serving, memory_urls: tuple[str, str]) -> None:
    async with serving() as served, caller(memory_urls) as orchestrator:
        program = await register(served)
        seen: list[Any] = []

        async def follow() -> None:
            async for event in orchestrator.stream("count_words", {"text": "a"}, timeout=50):
                seen.append((event.type, dict(event.data)))

        following = asyncio.create_task(follow())
        (command,) = await program.take()
        told = await served.client.post(
            f"{OWN}/commands/{command['id']}/progress", json={"uid": program.uid, "data": {"percent": 50}}
        )
        await program.answer(command["id"], result={"words": 1})
        await following

        assert told.status_code == 204
        assert seen == [("progress", {"percent": 50}), ("result", {"words": 1})]


async def test_a_program_that_falls_silent_is_offline_and_its_work_is_not_lost_in_silence(
    serving: Serving, urls: tuple[str, str]
) -> None:
    async with serving(urls) as served, caller(urls) as orchestrator:
        program = await register(served, ttl=2)
        await orchestrator.start()
        fetched = asyncio.create_task(orchestrator.call("count_words", {"text": "a"}, timeout=50))
        (command,) = await program.take(wait=0.5)
        unfetched = asyncio.create_task(orchestrator.call("count_words", {"text": "b"}, timeout=50))

        ended = await asyncio.gather(fetched, unfetched, return_exceptions=True)
        node = (await served.client.get(OWN)).json()
        late = await program.answer(command["id"], result={"words": 1})

        assert isinstance(ended[0], (DeliveryError, NoCapableNodesError))
        assert ended[0].outcome == "unknown"
        assert isinstance(ended[1], (DeliveryError, NoCapableNodesError))
        assert ended[1].outcome != "unknown"
        assert node["status"]["state"] == "offline"
        assert late == 404
        again = await register(served)
        assert again.uid != program.uid


async def test_heartbeats_keep_a_program_alive(served: Served) -> None:
    program = await register(served, ttl=2)
    member = served.gateway.members.get("ai-team/counter-001")
    assert member is not None
    for _ in range(3):
        before = member.expires
        answer = await served.client.post(f"{OWN}/heartbeat", json={"uid": program.uid})
        assert answer.status_code == 200
        assert answer.json()["ttl"] == 2
        assert member.expires > before


async def test_another_incarnation_is_fenced(served: Served) -> None:
    old = await register(served)
    conflict = await served.client.post("/api/v1/nodes", json=team_passport("counter-001", COUNT))
    new = await register(served, takeover=True)

    assert conflict.status_code == 409
    assert conflict.json()["type"].endswith(":name-conflict")
    assert old.uid != new.uid
    for answer in (
        await served.client.post(f"{OWN}/heartbeat", json={"uid": old.uid}),
        await served.client.get(f"{OWN}/commands", params={"uid": old.uid}),
        await served.client.post(f"{OWN}/commands/x/result", json={"uid": old.uid, "result": 1}),
    ):
        assert answer.status_code == 409
        assert answer.json()["type"].endswith(":other-incarnation")
    assert (await served.client.post(f"{OWN}/heartbeat", json={"uid": new.uid})).status_code == 200


async def test_a_name_that_a_process_holds_is_not_given_to_a_program(
    serving: Serving, urls: tuple[str, str]
) -> None:
    async with (
        serving(urls) as served,
        Registry.connect(urls[0]) as registry,
        await registry.register(team_passport("counter-001", COUNT)),
    ):
        answer = await served.client.post("/api/v1/nodes", json=team_passport("counter-001", COUNT))

        assert answer.status_code == 409
        assert answer.json()["type"].endswith(":name-conflict")


async def test_server_owned_fields_of_a_body_are_not_taken(served: Served) -> None:
    document = team_passport("counter-001", COUNT)
    document["metadata"] |= {
        "uid": "chosen",
        "generation": 99,
        "annotations": {"ai-team.dev/cordoned": "2026-01-01T00:00:00Z", "note": "kept"},
    }
    document["status"] = {"state": "busy", "active_tasks": 77}
    answer = await served.client.post("/api/v1/nodes", json=document)
    stored = (await served.client.get(OWN)).json()

    assert answer.status_code == 201
    assert stored["metadata"]["uid"] == answer.json()["uid"] != "chosen"
    assert stored["metadata"]["generation"] == 1
    assert stored["metadata"]["annotations"] == {"note": "kept"}
    assert stored["status"]["state"] == "ready"
    assert stored["status"]["active_tasks"] == 0
    assert answer.json()["node"]["cordoned"] is False


async def test_a_passport_that_is_wrong_is_answered_with_every_fault(served: Served) -> None:
    answer = await served.client.post(
        "/api/v1/nodes",
        json={"apiVersion": "ai-team.dev/v1", "kind": "NodePassport", "metadata": {"name": "Bad_Name"}},
    )

    assert answer.status_code == 422
    assert answer.json()["type"].endswith(":invalid-document")
    assert any(fault["path"] == "metadata.name" for fault in answer.json()["errors"])


async def test_labels_are_patched_and_null_takes_one_away(served: Served) -> None:
    await register(served)
    tag = (await served.client.get(OWN)).headers["etag"]
    first = await served.client.patch(
        OWN, json={"metadata": {"labels": {"tier": "b", "gone": "x"}}}, headers={"if-match": tag}
    )
    stale = await served.client.patch(
        OWN, json={"metadata": {"labels": {"tier": "c"}}}, headers={"if-match": tag}
    )
    second = await served.client.patch(
        OWN,
        content=b'{"metadata":{"labels":{"gone":null}}}',
        headers={"content-type": "application/merge-patch+json"},
    )

    assert first.json()["metadata"]["labels"] == {"tier": "b", "gone": "x"}
    assert stale.status_code == 412
    assert second.json()["metadata"]["labels"] == {"tier": "b"}


async def test_labels_of_a_node_of_another_process_are_its_own(served: Served) -> None:
    async with await served.gateway.registry.register(team_passport("counter-001", COUNT)):
        await until(lambda: served.gateway.registry.informer.get("ai-team/counter-001"))
        answer = await served.client.patch(OWN, json={"metadata": {"labels": {"tier": "b"}}})

    assert answer.status_code == 409
    assert "declares its labels" in answer.json()["detail"]


async def test_a_drained_program_gets_no_new_work_until_it_is_undrained(
    serving: Serving, memory_urls: tuple[str, str]
) -> None:
    async with serving() as served, caller(memory_urls) as orchestrator:
        program = await register(served)
        await orchestrator.start()

        def seen(healthy: bool) -> bool:
            record = orchestrator.registry.informer.get("ai-team/counter-001")
            return record is not None and record.healthy is healthy

        drained = await served.client.post(f"{OWN}/drain")
        await until(lambda: seen(healthy=False))
        with pytest.raises(NoCapableNodesError):
            await orchestrator.call("count_words", {"text": "a"}, timeout=1)
        notice = (await program.take())[0]
        undrained = await served.client.post(f"{OWN}/undrain")
        await until(lambda: seen(healthy=True))
        calling = asyncio.create_task(orchestrator.call("count_words", {"text": "a"}, timeout=50))
        command = [item for item in await program.take() if item["type"] == "command"]
        while not command:
            command = [item for item in await program.take() if item["type"] == "command"]
        await program.answer(command[0]["id"], result={"words": 1})

        assert drained.json()["told"] is True
        assert drained.json()["node"]["cordoned"] is True
        assert (notice["type"], notice["signal"]) == ("control", "drain")
        assert undrained.json()["node"]["cordoned"] is False
        assert await calling == {"words": 1}


async def test_a_program_may_say_that_it_drains(served: Served) -> None:
    program = await register(served)
    answer = await served.client.post(
        f"{OWN}/heartbeat",
        json={
            "uid": program.uid,
            "state": "draining",
            "conditions": [
                {"type": "ModelLoaded", "status": "False", "reason": "Loading", "message": "half"}
            ],
        },
    )
    assert answer.status_code == 200

    async def shown() -> bool:
        status = (await served.client.get(OWN)).json()["status"]
        return status["state"] == "draining" and any(
            one["type"] == "ModelLoaded" for one in status.get("conditions", [])
        )

    await until(shown)


async def test_a_program_that_leaves_is_gone_at_once(served: Served) -> None:
    program = await register(served)
    deleted = await served.client.delete(OWN)

    assert deleted.status_code == 204
    assert (await served.client.get(OWN)).status_code == 404
    assert (await served.client.post(f"{OWN}/heartbeat", json={"uid": program.uid})).status_code == 404


async def test_a_node_that_lives_elsewhere_is_deleted_by_force_alone(served: Served) -> None:
    await served.gateway.registry.register(team_passport("counter-001", COUNT))
    await until(lambda: served.gateway.registry.informer.get("ai-team/counter-001"))
    kept = await served.client.delete(OWN)
    forced = await served.client.delete(OWN, params={"force": "true"})

    assert (kept.status_code, forced.status_code) == (409, 204)


async def test_the_deadline_of_a_command_holds_whatever_its_program_does(
    serving: Serving, memory_urls: tuple[str, str]
) -> None:
    async with serving() as served, caller(memory_urls) as orchestrator:
        program = await register(served, at_once=1)
        with pytest.raises(CallTimeoutError):
            await orchestrator.call("count_words", {"text": "a"}, timeout=0.5)
        member = served.gateway.members.get("ai-team/counter-001")
        assert member is not None
        await until(lambda: member.engine.hands.empty)
        with pytest.raises(InvalidParamsError):
            await orchestrator.call("count_words", {"text": 7}, timeout=5)
        assert member.items(0) == []
        assert program.uid == member.uid


async def test_an_idempotency_key_is_kept_for_a_program_too(
    serving: Serving, memory_urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("ROSTER_STATE_DIR", str(tmp_path))
    async with serving() as served, caller(memory_urls) as orchestrator:
        program = await register(served)
        calling = asyncio.create_task(
            orchestrator.call("count_words", {"text": "a"}, timeout=50, idempotency_key="k-1")
        )
        (command,) = await program.take()
        await program.answer(command["id"], result={"words": 1})
        first = await calling
        again = await orchestrator.call("count_words", {"text": "a"}, timeout=50, idempotency_key="k-1")

        assert command["idempotency_key"] == "k-1"
        assert first == again == {"words": 1}


async def test_nodes_over_http_leave_with_their_gateway(serving: Serving, urls: tuple[str, str]) -> None:
    async with Registry.connect(urls[0]) as registry:
        async with serving(urls) as served:
            await register(served)
            await until(lambda: registry.find())
        await until(_empty(registry))


def _empty(registry: Any) -> Any:
    async def empty() -> bool:
        return not await registry.find()

    return empty


async def test_a_long_poll_ends_when_the_gateway_leaves(served: Served) -> None:
    program = await register(served)
    polling = asyncio.create_task(
        served.client.get(f"{OWN}/commands", params={"uid": program.uid, "wait": 15})
    )
    await until(lambda: served.gateway.streams == 1)
    served.gateway.leave()

    assert (await polling).json() == {"items": [], "after": 0}


async def test_a_lease_that_is_lost_ends_the_node_and_is_counted(served: Served) -> None:
    program = await register(served)
    member = served.gateway.members.get("ai-team/counter-001")
    assert member is not None
    member.registration.lose("a test says so")
    await until(lambda: served.gateway.members.count == 0)
    late = await served.client.post(f"{OWN}/heartbeat", json={"uid": program.uid})
    await until(lambda: served.gateway.registry.informer.get("ai-team/counter-001") is None)
    again = await register(served)

    assert late.status_code == 404
    assert again.uid != program.uid
    assert "roster_lease_losses_total 1.0" in (await served.client.get("/metrics")).text
