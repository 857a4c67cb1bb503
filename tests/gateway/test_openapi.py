"""The API's description is valid, and what the gateway answers to whatever it allows, and does not, is in it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.gateway.conftest import BOUND, Served, team_passport

from roster import Node
from roster._loops import LoopThread
from roster.gateway import Gateway, Limits, Settings, serve
from roster.gateway.app import create_api, describe
from roster.gateway.server import bind

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
# Streams have no end that a test could wait for.
STREAMS = ("/api/v1/watch", "/api/v1/nodes/{namespace}/{name}/commands/stream")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway on a thread of its own, with a little team."""
    thread = LoopThread("schemathesis").start()
    urls = ("memory://schemathesis", "memory://schemathesis")
    ends: list[Any] = []

    async def start() -> str:
        wanted = Settings(port=0, limits=Limits(rate=1e6, burst=1_000_000))
        directory = tmp_path_factory.mktemp("runs")
        runs_url = f"sqlite:///{directory}/runs.sqlite"
        gateway = Gateway(wanted, registry_url=urls[0], bus_url=urls[1], runs_url=runs_url)
        await gateway.__aenter__()
        listening = bind(wanted)
        started = asyncio.Event()
        task = asyncio.create_task(serve(gateway, listening, on_started=started.set, signals=False))
        node = Node(team_passport("counter-001", "count_words"), registry_url=urls[0], bus_url=urls[1])

        @node.capability("count_words")
        async def count_words(**params: Any) -> Any:
            return params

        await node.start()
        await started.wait()
        while gateway.not_ready:
            await asyncio.sleep(0.01)
        ends.extend([node, task, gateway])
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    async def stop() -> None:
        node, task, gateway = ends
        await node.stop()
        task.cancel()
        await asyncio.wait([task])
        await gateway.__aexit__()

    try:
        yield thread.run(start(), timeout=BOUND)
    finally:
        thread.run(stop(), timeout=BOUND)
        thread.stop()


def _operations() -> list[tuple[str, str]]:
    description = describe(create_api(Gateway()))
    return [
        (method.upper(), path)
        for path, item in description["paths"].items()
        for method in item
        if path not in STREAMS
    ]


@pytest.mark.parametrize(("method", "path"), _operations())
def test_whatever_is_asked_the_answer_is_in_the_description(url: str, method: str, path: str) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", wait_for_schema=BOUND)
    operation = schema[path][method]

    @given(data=st.data())
    @settings(
        max_examples=12,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(data: st.DataObject) -> None:
        mode = data.draw(
            st.sampled_from([schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE])
        )
        case = data.draw(operation.as_strategy(generation_mode=mode))
        # A call that waits for want of a node for a day is right, and longer than a test.
        body: Any = case.body
        if isinstance(body, dict) and isinstance(body.get("timeout"), (int, float)):
            body["timeout"] = min(body["timeout"], 0.5)
        if case.query and "wait" in case.query:
            case.query["wait"] = 0
        case.call_and_validate(checks=CHECKS, timeout=BOUND)

    ask()


async def test_the_description_is_openapi_3_1_with_examples(served: Served) -> None:
    found = (await served.client.get("/openapi.json")).json()

    assert found["openapi"].startswith("3.1")
    for shape in found["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **shape})
    for path, item in found["paths"].items():
        for method, operation in item.items():
            assert operation.get("summary"), (method, path)
            assert operation.get("description"), (method, path)
    text = str(found)
    for example in (
        "write_article",
        "ai-team/writer-001",
        "role=writer,tier in (a,b)",
        "urn:roster:problem:not-found",
    ):
        assert example in text
