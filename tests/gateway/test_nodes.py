"""What the gateway shows of nodes: lists, one of them, and what happens to them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from tests.gateway.conftest import Served, Serving, events, until
from tests.gateway.conftest import team_passport as passport

from roster import Registry


async def test_a_node_is_listed_with_state_load_labels_and_capabilities(served: Served) -> None:
    async with await served.gateway.registry.register(
        passport("writer-001", "write_article", labels={"role": "writer"})
    ):
        await until(lambda: served.gateway.registry.informer.get("ai-team/writer-001"))
        found = (await served.client.get("/api/v1/nodes")).json()

    assert found["total"] == 1
    assert found["next"] is None
    assert found["staleness"] == 0.0
    (node,) = found["items"]
    assert (node["key"], node["state"], node["healthy"]) == ("ai-team/writer-001", "ready", True)
    assert node["active_tasks"] == 0
    assert node["capacity"] >= 1
    assert node["labels"] == {"role": "writer"}
    assert "write_article" in node["capabilities"]
    assert node["last_seen"].endswith("Z")


async def test_a_node_is_shown_with_its_whole_passport_and_a_tag(served: Served) -> None:
    async with await served.gateway.registry.register(passport("writer-001", "write_article")):
        await until(lambda: served.gateway.registry.informer.get("ai-team/writer-001"))
        answer = await served.client.get("/api/v1/nodes/ai-team/writer-001")
        tag = answer.headers["etag"]
        again = await served.client.get("/api/v1/nodes/ai-team/writer-001", headers={"if-none-match": tag})

    assert answer.json()["kind"] == "NodePassport"
    assert answer.json()["status"]["state"] == "ready"
    assert again.status_code == 304
    assert again.content == b""


async def test_a_passport_is_yaml_for_who_asks_for_it(served: Served) -> None:
    path = "/api/v1/nodes/ai-team/writer-001"
    document = passport("writer-001", {"name": "write_article", "description": "half \u202e a pair: <b>"})
    async with await served.gateway.registry.register(document):
        await until(lambda: served.gateway.registry.informer.get("ai-team/writer-001"))
        plain = await served.client.get(path)
        answer = await served.client.get(path, headers={"accept": "application/yaml"})
        tag = answer.headers["etag"]
        again = await served.client.get(path, headers={"accept": "application/yaml", "if-none-match": tag})

    assert answer.headers["content-type"].startswith("application/yaml")
    found, same = yaml.safe_load(answer.text), plain.json()
    for one in (found, same):
        del one["status"]["last_heartbeat"]
    assert found == same
    assert (again.status_code, plain.headers["etag"] == tag) == (304, False)
    assert "accept" in answer.headers["vary"].lower()


async def test_a_node_that_is_not_there_is_a_problem_that_says_so(served: Served) -> None:
    answer = await served.client.get("/api/v1/nodes/ai-team/nobody")

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:roster:problem:not-found"
    assert "ai-team/nobody" in answer.json()["detail"]


async def test_pages_hold_every_node_once_and_lead_to_a_watch_without_a_gap(served: Served) -> None:
    registry = served.gateway.registry
    names = [f"node-{number:02}" for number in range(11)]
    for name in names:
        await registry.register(passport(name, "work"))
    await until(lambda: len(registry.informer.all()) == 11)

    first = (await served.client.get("/api/v1/nodes?limit=4")).json()
    # Between two pages the team goes on changing.
    late = await registry.register(passport("node-99", "work"))
    await until(lambda: registry.informer.get("ai-team/node-99"))
    seen, page = [node["name"] for node in first["items"]], first["next"]
    while page is not None:
        answer = await served.client.get("/api/v1/nodes", params={"limit": 4, "page": page})
        assert answer.json()["resume"] == first["resume"]
        seen += [node["name"] for node in answer.json()["items"]]
        page = answer.json()["next"]
    async with events(served, f"/api/v1/watch?resume={first['resume']}") as stream:
        name, data, _ = await stream.next()
    await late.deregister()

    assert seen == [*names, "node-99"]
    assert (name, data["type"], data["key"]) == ("node", "added", "ai-team/node-99")


async def test_a_watch_begins_with_what_there_is_and_goes_on_where_it_was(served: Served) -> None:
    registry = served.gateway.registry
    one = await registry.register(passport("writer-001", "write_article"))
    await until(lambda: registry.informer.get("ai-team/writer-001"))
    async with events(served, "/api/v1/watch") as stream:
        begin, place = await stream.until("synced")
        await one.set_state("draining")
        name, data, _ = await stream.next()
        assert (name, data["type"], data["node"]["state"]) == ("node", "draining", "draining")
    await one.deregister()
    await until(lambda: registry.informer.get("ai-team/writer-001") is None)

    async with events(served, "/api/v1/watch", headers={"last-event-id": str(place)}) as stream:
        told = [(await stream.next())[1]["type"] for _ in range(2)]

    assert [event[1]["type"] for event in begin] == ["added"]
    assert told == ["draining", "removed"]


async def test_a_place_that_is_not_known_any_more_is_answered_with_reset_and_everything(
    served: Served,
) -> None:
    await served.gateway.registry.register(passport("writer-001", "write_article"))
    await until(lambda: served.gateway.registry.informer.get("ai-team/writer-001"))
    for place in (
        "0123456789ab.7",
        f"{served.gateway.feed.epoch}.99",
        "nonsense",
        f"{served.gateway.feed.epoch}.²",
    ):
        async with events(served, "/api/v1/watch", params={"resume": place}) as stream:
            seen, end = await stream.until("synced")

        assert [event[0] for event in seen] == ["reset", "node"]
        assert end == served.gateway.feed.place


async def test_a_watch_with_a_filter_tells_who_comes_to_match_and_who_ceases_to(served: Served) -> None:
    registry = served.gateway.registry
    one = await registry.register(passport("writer-001", "write_article", labels={"tier": "a"}))
    await until(lambda: registry.informer.get("ai-team/writer-001"))
    async with events(served, "/api/v1/watch", params={"selector": "tier=b"}) as stream:
        seen, _ = await stream.until("synced")
        await one.update(labels={"tier": "b"})
        came = (await stream.next())[1]
        await one.update(labels={"tier": "c"})
        went = (await stream.next())[1]

    assert seen == []
    assert (came["type"], came["node"]["labels"]) == ("added", {"tier": "b"})
    assert went["type"] == "removed"


async def test_what_a_node_offers_is_summed_up(served: Served) -> None:
    registry = served.gateway.registry
    for name in ("writer-001", "writer-002"):
        await registry.register(passport(name, "write_article", at_once=3))
    await registry.register(passport("editor-001", "edit_text", at_once=2))
    await until(lambda: len(registry.informer.all()) == 3)

    found = {one["name"]: one for one in (await served.client.get("/api/v1/capabilities")).json()["items"]}

    assert (found["write_article"]["healthy"], found["write_article"]["free"]) == (2, 6)
    assert not found["write_article"]["single"]
    assert found["edit_text"]["single"]
    assert found["edit_text"]["offered_by"] == ["ai-team/editor-001"]


async def test_a_watch_ends_when_the_gateway_leaves(serving: Serving) -> None:
    async with serving() as served:
        async with served.client.stream("GET", "/api/v1/watch") as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            served.gateway.leave()
            assert "event: node" not in [line async for line in lines]
        assert (await served.client.get("/readyz")).status_code == 503
        assert (await served.client.get("/healthz")).status_code == 200


async def test_lists_carry_a_tag_that_changes_with_the_team(served: Served) -> None:
    registry = served.gateway.registry
    first = await served.client.get("/api/v1/nodes")
    same = await served.client.get("/api/v1/nodes", headers={"if-none-match": first.headers["etag"]})
    await registry.register(passport("writer-001", "write_article"))
    await until(lambda: registry.informer.get("ai-team/writer-001"))
    changed = await served.client.get("/api/v1/nodes", headers={"if-none-match": first.headers["etag"]})

    assert same.status_code == 304
    assert changed.status_code == 200


async def test_a_large_answer_is_compressed_for_who_accepts_it(served: Served) -> None:
    registry = served.gateway.registry
    for number in range(10):
        await registry.register(passport(f"writer-{number}", "write_article"))
    await until(lambda: len(registry.informer.all()) == 10)
    answer = await served.client.get("/api/v1/nodes", headers={"accept-encoding": "gzip"})
    plain = await served.client.get("/api/v1/nodes", headers={"accept-encoding": "identity"})

    assert answer.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert len(answer.json()["items"]) == 10


@pytest.mark.parametrize(
    ("query", "status", "type"),
    [
        ("limit=0", 422, "invalid-request"),
        ("limit=many", 422, "invalid-request"),
        ("page=nonsense", 400, "invalid-page"),
        ("page=" + "A" * 3000, 422, "invalid-request"),
        ("selector=role=(", 400, "invalid-selector"),
        ("version=>>1", 400, "invalid-selector"),
        ("namespace=../etc", 422, "invalid-request"),
        ("state=asleep", 422, "invalid-request"),
    ],
)
async def test_a_query_that_is_wrong_is_named(served: Served, query: str, status: int, type: str) -> None:
    answer = await served.client.get(f"/api/v1/nodes?{query}")

    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:roster:problem:{type}")


async def test_the_registry_is_followed_across_processes_stores(
    served: Served, memory_urls: tuple[str, str]
) -> None:
    async with Registry.connect(memory_urls[0]) as other, await other.register(passport("far-001", "work")):
        found: dict[str, Any] = {}

        async def listed() -> bool:
            found.update((await served.client.get("/api/v1/nodes")).json())
            return bool(found["total"])

        await until(listed)
    assert found["items"][0]["name"] == "far-001"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/healthz",
        "/metrics",
        "/openapi.json",
        "/static/app.js",
        "/api/v1/nodes",
        "/api/v1/find?capability=w",
    ],
)
async def test_what_can_be_got_can_be_asked_for_its_head(served: Served, path: str) -> None:
    whole = await served.client.get(path)
    head = await served.client.head(path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert head.headers["content-security-policy"]
    # The connection serves on.
    assert (await served.client.get("/healthz")).status_code == 200


async def test_the_head_of_a_stream_is_the_whole_answer(served: Served) -> None:
    head = await served.client.head("/api/v1/watch", timeout=10)
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    await until(lambda: served.gateway.feed.readers == 0)


async def test_a_head_takes_no_command_from_a_node(served: Served) -> None:
    answer = await served.client.head("/api/v1/nodes/ai-team/remote/commands")
    assert answer.status_code == 405
