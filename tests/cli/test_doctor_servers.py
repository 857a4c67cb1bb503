"""`doctor` on a registry that is kept by a server: what that says of itself, and what it lists."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import roster
from tests.conftest import passport
from tests.engines import shared_url, store_params

from roster.cli.doctor.store import distance
from roster.registry.keys import node_key
from roster.store import LeaseTerms, open_store, store_url

SAYS = {
    "etcd": r"\(etcd, revision \d+, version 3\.\S+, leader known\)",
    "consul": r"\(consul, revision \d+, datacenter \S+, version \S+, servers 1\)",
    "zookeeper": r"\(zookeeper, revision \d+, server \S+, session \d+ s\)",
}


def at_prefix(engine: str) -> str:
    """Return a registry of one test alone, on a server that many share."""
    return f"{shared_url(engine)}/?prefix=/doctor-{uuid.uuid4().hex[:8]}"


@pytest.fixture(params=store_params(*SAYS))
def url(request: pytest.FixtureRequest, private_state: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty registry, and no bus yet."""
    address = at_prefix(request.param)
    monkeypatch.setenv("ROSTER_REGISTRY", address)
    monkeypatch.setenv("ROSTER_BUS", f"local://{private_state.parent}/bus")
    return address


def put(url: str, **documents: bytes) -> None:
    """Write documents past every check."""

    async def write() -> None:
        async with open_store(url) as store:
            for name, document in documents.items():
                await store.put(node_key("default", name), document)

    asyncio.run(write())


def heard_of(name: str, seconds: float, **metadata: str) -> bytes:
    """Return a passport that was written so many seconds ago."""
    document: dict[str, Any] = passport(name, "write")
    document["metadata"] |= metadata
    written = datetime.now(UTC) - timedelta(seconds=seconds)
    document["status"] = {"state": "ready", "last_heartbeat": written.isoformat()}
    return json.dumps(document).encode()


def the_one(words: str) -> dict[str, str]:
    """Examine, and return the finding with these words."""
    result = roster("doctor", "-o", "json")
    assert result.err == ""
    matching = [one for one in result.json["findings"] if words in one["what"]]
    assert len(matching) == 1, result.out
    return dict(matching[0])


def test_it_names_the_engine_its_version_and_how_fast_it_answers(url: str) -> None:
    engine = store_url(url).engine
    said = roster("doctor").out
    assert re.search(
        rf"^OK    store        {engine}://\S+ answers in \d+\.\d ms {SAYS[engine]}$", said, re.MULTILINE
    ), said


def test_it_names_documents_that_cannot_be_read(url: str) -> None:
    put(url, broken=b"{nonsense")
    assert the_one("quarantined")["what"].startswith("the document /ai-team/nodes/default/broken is ")


def test_it_names_those_whom_nothing_removes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSTER_RETENTION", "60")
    ours = {"uid": str(uuid.uuid4())}
    put(
        url,
        founding=heard_of("founding", 300),
        dead=heard_of("dead", 300, **ours),
        new=heard_of("new", 90, **ours),
    )
    assert "default/founding was put without a lease" in the_one("without a lease")["what"]
    left = the_one("no lease ends that")
    assert left["level"] == "WARN"
    assert left["what"].endswith(": default/dead")
    assert left["remedy"] == "roster prune --older-than 60s"
    assert roster("prune", "--older-than", "60s").status == 0


@pytest.mark.store("etcd")
async def test_leases_can_be_looked_at_through_a_prefix() -> None:
    async with open_store(at_prefix("etcd")) as store:
        lease = await store.grant(30)
        assert isinstance(store, LeaseTerms)
        terms = await store.lease_terms([lease.id])
        assert terms[lease.id].ttl == 30


@pytest.mark.parametrize(
    ("place", "far"),
    [
        ("localhost", False),
        ("127.0.0.1", False),
        ("[::1]:8500", False),
        ("consul.example", True),
        ("10.0.0.7:8500", True),
    ],
)
def test_an_agent_of_consul_on_another_machine_is_pointed_out(place: str, far: bool) -> None:
    found = distance(store_url(f"consul://{place}"))
    assert bool(found) is far
    assert distance(store_url(f"etcd://{place}")) == []
