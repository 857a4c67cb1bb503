"""Calls through the gateway, and what it says of room, demand, metrics and the past of nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.gateway.conftest import Served, Serving, team_passport, until

from roster import Context, Message, MindBus, Node
from roster.errors import Attempt, Code
from roster.gateway.metrics import OTHER, Bounded

COUNT: dict[str, Any] = {"name": "count_words", "input_schema": {"text": "string"}}


class Gate:
    """Work that ends when the test says so."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.running = 0
        self.cancelled = 0

    async def pass_(self) -> None:
        self.running += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


@asynccontextmanager
async def agent(
    urls: tuple[str, str], name: str = "counter-001", gate: Gate | None = None, at_once: int = 2
) -> AsyncIterator[Node]:
    node = Node(team_passport(name, COUNT, at_once=at_once), registry_url=urls[0], bus_url=urls[1])

    @node.capability("count_words")
    async def count_words(text: str, context: Context) -> dict[str, int]:
        if gate is not None:
            await gate.pass_()
        if text == "fail":
            raise ValueError("no words")
        return {"words": len(text.split())}

    async with node:
        yield node


async def known(served: Served, count: int = 1) -> None:
    await until(lambda: sum(one.healthy for one in served.gateway.registry.informer.all()) == count)


def body(text: str = "a b c", **more: Any) -> dict[str, Any]:
    return {"capability": "count_words", "params": {"text": text}, "timeout": 50, **more}


async def test_a_call_brings_its_result_and_says_who_did_it(serving: Serving, urls: tuple[str, str]) -> None:
    async with serving(urls) as served, agent(urls):
        await known(served)
        answer = await served.client.post("/api/v1/call", json=body())

    assert answer.status_code == 200
    found = answer.json()
    assert found["result"] == {"words": 3}
    assert found["node"] == "ai-team/counter-001"
    assert [one["node"] for one in found["attempts"]] == ["ai-team/counter-001"]


@pytest.mark.parametrize(
    ("sent", "status", "type", "outcome"),
    [
        ({"capability": "sing", "timeout": 5}, 404, "no-capable-nodes", "not_sent"),
        (
            {"capability": "count_words", "params": {"text": 7}, "timeout": 5},
            422,
            "invalid-params",
            "not_sent",
        ),
        (
            {"capability": "count_words", "params": {"text": "fail"}, "timeout": 50},
            502,
            "call-failed",
            "unknown",
        ),
        (
            {"capability": "count_words", "params": {}, "selector": "((", "timeout": 5},
            400,
            "invalid-selector",
            None,
        ),
        ({"capability": "count_words", "params": {}, "priority": 10}, 422, "invalid-request", None),
        ({"capability": "count_words", "params": {}, "timeout": 0}, 422, "invalid-request", None),
    ],
)
async def test_a_call_that_fails_says_what_is_known(
    serving: Serving,
    memory_urls: tuple[str, str],
    sent: dict[str, Any],
    status: int,
    type: str,
    outcome: str | None,
) -> None:
    async with serving() as served, agent(memory_urls):
        await known(served)
        answer = await served.client.post("/api/v1/call", json=sent)

    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:roster:problem:{type}")
    assert answer.json().get("outcome") == outcome


async def test_full_nodes_are_told_with_when_to_come_again(
    serving: Serving, memory_urls: tuple[str, str]
) -> None:
    gate = Gate()
    async with serving() as served, agent(memory_urls, gate=gate, at_once=1):
        await known(served)
        holding = asyncio.create_task(served.client.post("/api/v1/call", json=body()))
        await until(lambda: gate.running == 1)
        busy = await served.client.post("/api/v1/call", json=body(on_busy="fail"))
        free = (await served.client.get("/api/v1/capabilities/count_words/availability")).json()
        wanted = (await served.client.get("/api/v1/capabilities/count_words/demand")).json()
        gate.open.set()
        assert (await holding).status_code == 200

    assert (busy.status_code, busy.json()["type"]) == (503, "urn:roster:problem:all-nodes-busy")
    assert int(busy.headers["retry-after"]) >= 1
    assert busy.json()["passed_over"][0]["node"] == "ai-team/counter-001"
    assert (free["state"], free["free"]) == ("busy", 0)
    assert free["retry_after"] > 0
    assert wanted["running"] == 1
    assert wanted["total"] >= 1


async def test_a_call_is_taken_back_when_who_asked_is_gone(
    serving: Serving, memory_urls: tuple[str, str]
) -> None:
    gate = Gate()
    async with serving() as served, agent(memory_urls, gate=gate):
        await known(served)
        asking = asyncio.create_task(served.client.post("/api/v1/call", json=body()))
        await until(lambda: gate.running == 1)
        asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: gate.cancelled == 1)


async def test_an_asynchronous_call_is_asked_after_until_it_is_over(
    serving: Serving, memory_urls: tuple[str, str]
) -> None:
    gate = Gate()
    async with serving() as served, agent(memory_urls, gate=gate):
        await known(served)
        begun = await served.client.post("/api/v1/call", json=body(mode="async"))
        preferred = await served.client.post("/api/v1/call", json=body(), headers={"prefer": "respond-async"})
        place = begun.headers["location"]
        early = (await served.client.get(place)).json()
        waiting = asyncio.create_task(served.client.get(place, params={"wait": 60}))
        gate.open.set()
        late = (await waiting).json()
        listed = (await served.client.get("/api/v1/calls")).json()

    assert (begun.status_code, preferred.status_code) == (202, 202)
    assert (early["state"], early["result"]) == ("running", None)
    assert (late["state"], late["result"], late["node"]) == ("succeeded", {"words": 3}, "ai-team/counter-001")
    assert [one["id"] for one in listed["items"]] == [preferred.json()["id"], begun.json()["id"]]


async def test_an_asynchronous_call_can_be_cancelled(serving: Serving, memory_urls: tuple[str, str]) -> None:
    gate = Gate()
    async with serving() as served, agent(memory_urls, gate=gate):
        await known(served)
        place = (await served.client.post("/api/v1/call", json=body(mode="async"))).headers["location"]
        await until(lambda: gate.running == 1)
        cancelled = await served.client.delete(place)
        again = await served.client.delete(place)
        await until(lambda: gate.cancelled == 1)

    assert cancelled.json()["state"] == again.json()["state"] == "cancelled"
    assert cancelled.json()["error"]["status"] == 409


async def test_an_asynchronous_call_that_fails_keeps_the_problem(served: Served) -> None:
    begun = await served.client.post(
        "/api/v1/call", json={"capability": "sing", "mode": "async", "timeout": 5}
    )
    found = (await served.client.get(begun.headers["location"], params={"wait": 60})).json()

    assert found["state"] == "failed"
    assert found["error"]["type"].endswith(":no-capable-nodes")
    assert (await served.client.get("/api/v1/calls/c-nowhere")).status_code == 404


async def test_a_call_may_wait_for_a_node_and_counts_as_demand_meanwhile(
    serving: Serving, memory_urls: tuple[str, str]
) -> None:
    async with serving() as served:
        begun = await served.client.post("/api/v1/call", json=body(mode="async", wait_for_node=True))

        async def waiting() -> Mapping[str, Any]:
            found: dict[str, Any] = (
                await served.client.get("/api/v1/capabilities/count_words/demand")
            ).json()
            return found if found["waiting_for_node"] else {}

        wanted = await until(waiting)
        async with agent(memory_urls):
            found = (await served.client.get(begun.headers["location"], params={"wait": 60})).json()

    assert (wanted["total"], wanted["capacity"]) == (1, 0)
    assert found["result"] == {"words": 3}


async def test_the_same_idempotency_key_brings_the_same_answer(
    serving: Serving, memory_urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("ROSTER_STATE_DIR", str(tmp_path))
    async with serving() as served, agent(memory_urls):
        await known(served)
        first = await served.client.post("/api/v1/call", json=body(idempotency_key="k"))
        other = await served.client.post("/api/v1/call", json=body("x"), headers={"idempotency-key": "k"})

    assert first.status_code == 200
    assert (other.status_code, other.json()["type"]) == (422, "urn:roster:problem:invalid-params")


async def test_room_is_told_for_what_nobody_and_for_what_somebody_offers(
    serving: Serving, memory_urls: tuple[str, str]
) -> None:
    async with serving() as served, agent(memory_urls) as node:
        await known(served)
        nobody = (await served.client.get("/api/v1/capabilities/sing/availability")).json()
        somebody = (await served.client.get("/api/v1/capabilities/count_words/availability")).json()
        await served.client.post("/api/v1/nodes/ai-team/counter-001/drain")
        drained = (await served.client.get("/api/v1/capabilities/count_words/availability")).json()
        assert node.uid

    assert (nobody["state"], nobody["free"]) == ("unknown", 0)
    assert (somebody["state"], somebody["free"], somebody["retry_after"]) == ("available", 2, None)
    assert drained["state"] == "unavailable"


async def test_demand_is_not_given_from_an_old_copy(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(served.gateway), "staleness", property(lambda self: 61.0))
    answer = await served.client.get("/api/v1/capabilities/count_words/demand")

    assert answer.status_code == 503
    assert "retry-after" in answer.headers


async def test_find_pick_and_explain_say_who(serving: Serving, memory_urls: tuple[str, str]) -> None:
    async with serving() as served, agent(memory_urls), agent(memory_urls, "counter-002"):
        await known(served, 2)
        await served.client.post("/api/v1/nodes/ai-team/counter-002/drain")
        found = (await served.client.get("/api/v1/find?capability=count_words")).json()
        every = (await served.client.get("/api/v1/find?capability=count_words&healthy=any&limit=1")).json()
        picked = (await served.client.get("/api/v1/pick?capability=count_words")).json()
        nobody = await served.client.get("/api/v1/pick?capability=sing")
        why = (await served.client.get("/api/v1/explain?capability=count_words")).json()["items"]

    assert [one["name"] for one in found["items"]] == ["counter-001"]
    assert every["total"] == 2
    assert every["next"]
    assert picked["node"]["name"] == "counter-001"
    assert nobody.status_code == 404
    assert {one["node"]: one["candidate"] for one in why} == {
        "ai-team/counter-001": True,
        "ai-team/counter-002": False,
    }


async def test_metrics_tell_of_calls_nodes_and_requests(
    serving: Serving, memory_urls: tuple[str, str]
) -> None:
    async with serving() as served, agent(memory_urls):
        await known(served)
        await served.client.post("/api/v1/call", json=body())
        await served.client.post("/api/v1/call", json=body("fail"))
        await served.client.post("/api/v1/call", json={"capability": "anything-" + "x" * 50, "timeout": 5})
        await served.client.get("/nowhere/at/all")
        await served.client.get("/api/v1/nodes", headers={"host": "evil.example"})
        answer = await served.client.get("/metrics")
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }

    def value(name: str, **labels: str) -> float | None:
        return found.get((name, tuple(sorted(labels.items()))))

    assert answer.headers["content-type"].startswith("text/plain")
    assert value("roster_calls_total", capability="count_words", outcome="ok") == 1
    assert value("roster_calls_total", capability="count_words", outcome="UNKNOWN") == 1
    assert value("roster_calls_total", capability=OTHER, outcome="NOT_FOUND") == 1
    assert value("roster_call_duration_seconds_count", capability="count_words") == 2
    assert value("roster_calls_in_flight", capability="count_words") == 0
    assert (
        value(
            "roster_call_attempts_total", capability="count_words", node="ai-team/counter-001", outcome="ok"
        )
        == 1
    )
    assert value("roster_nodes", state="ready") == 1
    assert value("roster_node_capacity", namespace="ai-team", node="counter-001") == 2
    assert value("roster_capability_free", capability="count_words") == 2
    assert value("roster_capability_demand", capability="count_words", kind="running") == 0
    assert value("roster_informer_staleness_seconds") == 0
    assert value("roster_informer_connected") == 1
    assert value("roster_http_requests_total", method="POST", route="/api/v1/call", status="200") == 1
    assert value("roster_http_requests_total", method="GET", route=OTHER, status="404") == 1
    assert value("roster_http_refused_total", door="unknown-host") == 1
    for name in (
        "roster_call_retries_total", "roster_call_failovers_total", "roster_ejections_total", "roster_ejected_nodes",
        "roster_informer_listings_total", "roster_quarantined_documents", "roster_http_nodes", "roster_lease_losses_total",
        "roster_node_expirations_total", "roster_bus_reconnects_total", "roster_http_connections", "roster_http_streams",
        "roster_capability_nodes", "roster_node_active_tasks", "roster_http_request_duration_seconds",
    ):  # fmt: skip
        assert f"# TYPE {name}" in answer.text, name


def test_labels_have_a_bounded_number_of_values() -> None:
    bounded = Bounded(2)

    assert [bounded.of(value) for value in ("a", "b", "c", "a")] == ["a", "b", OTHER, "a"]


async def test_a_failover_is_counted(serving: Serving, memory_urls: tuple[str, str]) -> None:
    async with serving() as served, agent(memory_urls):
        await known(served)
        gone = [Attempt("a/b", start, 1, "gone", Code.UNAVAILABLE) for start in (0, 1)]
        tries = [*gone, Attempt("a/c", 2, 1)]
        served.gateway.metrics.call_ended("count_words", "ok", 3.0, tries)
        text = (await served.client.get("/metrics")).text

    assert 'roster_call_retries_total{capability="count_words"} 2.0' in text
    assert 'roster_call_failovers_total{capability="count_words"} 1.0' in text


async def test_the_past_of_a_node_is_told_newest_first(
    serving: Serving, memory_urls: tuple[str, str]
) -> None:
    async with serving() as served, agent(memory_urls), MindBus.connect(memory_urls[1]) as mindbus:
        await known(served)
        await served.client.post("/api/v1/call", json=body())
        await served.client.post("/api/v1/call", json=body("fail"))
        event = Message.event("words.counted", {"words": 3}, source="/ai-team/counter-001")
        await mindbus.bus.publish("evt.words.counted", event)
        await served.client.post("/api/v1/nodes/ai-team/counter-001/drain")

        async def told() -> Mapping[str, Any]:
            found: dict[str, Any] = (
                await served.client.get("/api/v1/nodes/ai-team/counter-001/history")
            ).json()
            return found if found["events"] else {}

        past = await until(told)

    assert past["states"][0]["state"] == "draining"
    assert [one["outcome"] for one in past["tasks"]] == ["UNKNOWN", "ok"]
    assert past["tasks"][0]["error"]
    assert past["events"][0]["topic"] == "evt.words.counted"
    assert past["events"][0]["data"] == {"words": 3}


async def test_the_quick_way_of_find_answers_as_the_route_does(
    serving: Serving, memory_urls: tuple[str, str]
) -> None:
    async with serving() as served, agent(memory_urls):
        await known(served)
        for query in (
            "capability=count_words",
            "capability=count_words&namespace=ai-team",
            "capability=sing",
        ):
            quick = await served.client.get(f"/api/v1/find?{query}", headers={"accept-encoding": "identity"})
            route = await served.client.get(f"/api/v1/find?{query}", headers={"accept-encoding": "gzip"})
            for found in (quick.json(), route.json()):
                for node in found["items"]:
                    node.pop("last_seen")
                assert found == {**quick.json(), "items": found["items"]}
            assert [one["key"] for one in quick.json()["items"]] == [
                one["key"] for one in route.json()["items"]
            ]
        for query in (
            "capability=",
            "",
            "capability=x&capability=y",
            "capability=x&namespace=..",
            "capability=x&limit=0",
        ):
            answers = [
                await served.client.get(f"/api/v1/find?{query}", headers={"accept-encoding": kind})
                for kind in ("identity", "gzip")
            ]
            assert answers[0].status_code == answers[1].status_code
            assert answers[0].content == answers[1].content
