"""Runs of process cards over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.gateway.conftest import Served, Serving, until
from tests.gateway.test_calls import agent, known

CARD: dict[str, Any] = {
    "name": "count",
    "steps": [
        {"id": "count", "action": "count_words", "params": {"text": "${input.text}"}, "output": "found"},
        {"type": "complete", "result": "${found.words}"},
    ],
}
ASKING: dict[str, Any] = {
    "name": "asking",
    "steps": [
        {"id": "ask", "type": "human_checkpoint", "message": "Go on?"},
        {"type": "complete", "result": "gone on"},
    ],
}


async def ended(served: Served, run: str) -> dict[str, Any]:
    async def over() -> dict[str, Any]:
        found: dict[str, Any] = (await served.client.get(f"/api/v1/runs/{run}")).json()
        return found if found["state"] in ("succeeded", "failed", "cancelled", "dead") else {}

    found: dict[str, Any] = await until(over)
    return found


async def waits(served: Served, run: str, kind: str) -> None:
    async def waiting() -> bool:
        found = (await served.client.get(f"/api/v1/runs/{run}")).json()
        return any(step["waiting"] is not None and step["waiting"]["kind"] == kind for step in found["steps"])

    await until(waiting)


async def test_a_run_is_begun_carried_out_and_listed(serving: Serving, memory_urls: tuple[str, str]) -> None:
    async with serving() as served, agent(memory_urls):
        await known(served)
        begun = await served.client.post(
            "/api/v1/runs", json={"card": CARD, "inputs": {"text": "a b"}, "run_id": "one"}
        )
        again = await served.client.post(
            "/api/v1/runs", json={"card": CARD, "inputs": {"text": "a b"}, "run_id": "one"}
        )
        other = await served.client.post(
            "/api/v1/runs", json={"card": CARD, "inputs": {"text": "x"}, "run_id": "one"}
        )
        record = await ended(served, "one")
        await served.client.post(
            "/api/v1/runs", json={"card": "name: text\nsteps:\n- type: complete\n", "run_id": "two"}
        )
        await ended(served, "two")
        first = (await served.client.get("/api/v1/runs?limit=1")).json()
        second = (await served.client.get("/api/v1/runs", params={"limit": 1, "page": first["next"]})).json()
        failed = (await served.client.get("/api/v1/runs?state=failed")).json()

    assert (begun.status_code, begun.headers["location"]) == (201, "/api/v1/runs/one")
    assert again.json()["id"] == "one"
    assert (other.status_code, other.json()["type"]) == (409, "urn:roster:problem:conflict")
    assert (record["state"], record["result"]) == ("succeeded", 2)
    assert record["steps"][0]["node"] == "ai-team/counter-001"
    assert [one["id"] for one in first["items"] + second["items"]] == ["two", "one"]
    assert second["next"] is None
    assert failed["items"] == []


async def test_a_run_that_waits_for_a_person_is_answered(served: Served) -> None:
    for run in ("yes", "no"):
        await served.client.post("/api/v1/runs", json={"card": ASKING, "run_id": run})
        await waits(served, run, "approval")
    approved = await served.client.post("/api/v1/runs/yes/approve", json={"comment": "fine"})
    rejected = await served.client.post("/api/v1/runs/no/reject", json={"step": None})
    yes, no = await ended(served, "yes"), await ended(served, "no")
    late = await served.client.post("/api/v1/runs/yes/approve", json={})

    assert approved.status_code == rejected.status_code == 200
    assert (yes["state"], yes["result"], no["state"]) == ("succeeded", "gone on", "failed")
    assert late.status_code == 409


async def test_a_run_is_cancelled_paused_resumed_and_signalled(served: Served) -> None:
    card = {"name": "waits", "steps": [{"id": "w", "type": "wait", "event": "go", "timeout": "1h"}]}
    for run in ("stop", "go"):
        begun = await served.client.post("/api/v1/runs", json={"card": card, "run_id": run})
        assert begun.status_code == 201, begun.text
        await waits(served, run, "event")
    cancelled = await served.client.post("/api/v1/runs/stop/cancel", json={"reason": "enough"})
    paused = await served.client.post("/api/v1/runs/go/pause")
    resumed = await served.client.post("/api/v1/runs/go/resume")
    signalled = await served.client.post("/api/v1/runs/go/signal", json={"event": "go", "data": {"n": 1}})
    record = await ended(served, "go")

    assert cancelled.json()["state"] == "cancelled"
    assert [answer.status_code for answer in (paused, resumed, signalled)] == [200, 200, 200]
    assert record["state"] == "succeeded"


async def test_a_run_that_waits_for_a_node_is_demand(
    serving: Serving, memory_urls: tuple[str, str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("roster.gateway.core._RUNS_LOOK", 0.1)
    async with serving() as served:
        await served.client.post(
            "/api/v1/runs", json={"card": CARD, "inputs": {"text": "a"}, "run_id": "one"}
        )

        async def wanted() -> bool:
            found = (await served.client.get("/api/v1/capabilities/count_words/demand")).json()
            return (found["waiting_for_node"], found["queued"], found["total"]) == (1, 0, 1)

        await until(wanted)
        async with agent(memory_urls):
            assert (await ended(served, "one"))["state"] == "succeeded"


async def test_what_is_wrong_with_a_run_is_said(served: Served, tmp_path: Path) -> None:
    secret = tmp_path / "card.yaml"
    secret.write_text("name: secret\nsteps:\n- type: complete\n")
    for body, status in (
        ({"card": {"name": "x", "steps": [{"id": "a", "type": "nonsense"}]}}, 422),
        ({"card": str(secret)}, 422),
        ({"card": CARD, "run_id": "../x"}, 400),
        ({"card": CARD, "run_id": "ok", "surprise": 1}, 422),
        ({}, 422),
    ):
        answer = await served.client.post("/api/v1/runs", json=body)
        assert answer.status_code == status, answer.text
        assert "secret" not in answer.json()["detail"]
    assert (await served.client.get("/api/v1/runs/nowhere")).status_code == 404
    assert (await served.client.post("/api/v1/runs/nowhere/cancel", json={})).status_code == 404
    assert (await served.client.get("/api/v1/runs/..%2fx")).status_code in (404, 422)


async def test_a_gateway_that_orchestrates_takes_up_what_nobody_has(
    serving: Serving, memory_urls: tuple[str, str]
) -> None:
    async with serving() as served:
        left = await served.client.post(
            "/api/v1/runs", json={"card": ASKING, "run_id": "left", "detach": True}
        )
        assert left.json()["state"] == "pending"
    async with serving(orchestrate=True) as served:
        await waits(served, "left", "approval")


async def test_the_steps_of_a_runs_card_are_a_graph_to_draw(served: Served) -> None:
    card = {
        "name": "drawn",
        "steps": [
            {"id": "count", "action": "count_words", "params": {"text": "a"}},
            {"id": "many", "type": "condition", "condition": "${input.many}", "then": "ask", "else": "done"},
            {"id": "ask", "type": "human_checkpoint", "message": "Go <b>on</b>?"},
            {"id": "done", "type": "complete", "result": 1},
        ],
    }
    await served.client.post("/api/v1/runs", json={"card": card, "inputs": {"many": True}, "run_id": "drawn"})
    answer = await served.client.get("/api/v1/runs/drawn/graph")
    missing = await served.client.get("/api/v1/runs/none/graph")

    graph = answer.json()
    step = {node["number"]: node["step"] for node in graph["nodes"]}
    assert (graph["card"], sorted(step)) == ("drawn", sorted(graph["order"]))
    assert [node["shape"] for node in graph["nodes"] if node["step"] in ("count", "many", "ask")] == [
        "box",
        "diamond",
        "person",
    ]
    assert {
        (step[arrow["source"]], step[arrow["target"]]): arrow["label"] for arrow in graph["arrows"]
    }.items() >= {("count", "many"): "", ("many", "ask"): "then", ("many", "done"): "else"}.items()
    assert missing.status_code == 404
