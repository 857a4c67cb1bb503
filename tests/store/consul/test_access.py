"""Consul behind tokens and TLS: what Roster needs, and what it says when it may not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.engines import not_here

from roster.errors import ConfigError, StoreDeniedError, StoreUnavailableError
from roster.store import Batch, Hint, Store, open_store
from servers import Certificates, Consul

# What docs/stores.md tells people to give a node.
NODE = """
key_prefix "ai-team/" { policy = "write" }
service "ai-node" { policy = "write" }
service "roster-lease" { policy = "write" }
service "consul" { policy = "read" }
session_prefix "" { policy = "write" }
node_prefix "" { policy = "read" }
"""
READER = 'key_prefix "ai-team/" { policy = "read" }'


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    """A Consul in which nobody may do anything without a token."""
    from servers import ServerMissingError

    try:
        with Consul(tmp_path_factory.mktemp("acl"), dev=True, acl=True) as server:
            yield server
    except ServerMissingError as error:
        not_here("consul", str(error))


async def _refused(store: Store, said: list[str]) -> None:
    """Hold that nothing goes, and collect what is said."""
    outcomes = await asyncio.gather(
        store.list("/ai-team/"),
        store.put("/ai-team/a", b"", if_revision=0),
        store.put("/ai-team/a", b""),
        store.grant(30, hint=Hint("default/a", ("x",), "/ai-team/a")),
        store.grant(30, lingering=True),
        store.watch("/ai-team/", from_revision=1).__aenter__(),
        return_exceptions=True,
    )
    for outcome in outcomes:
        assert isinstance(outcome, StoreDeniedError), repr(outcome)
        said.append(str(outcome))


async def test_a_nodes_token_needs_no_more_than_is_documented(guarded: Consul) -> None:
    token = await asyncio.to_thread(guarded.add_token, NODE)
    async with open_store(guarded.url_of(token)) as store:
        info = await store.info()
        assert dict(info.details)["version"]
        start = info.revision
        lease = await store.grant(30, hint=Hint("default/a", ("x",), "/ai-team/nodes/default/a"))
        passport = await store.grant(60, lingering=True)
        nameless = await store.grant(30)
        async with store.watch("/ai-team/", from_revision=start + 1) as batches:
            revision = await store.put("/ai-team/nodes/default/a", b"1", lease=passport.id)
            await store.put("/ai-team/status/default/a", b"1", lease=lease.id)
            while (await anext(batches)).revision < revision:
                pass
        for each in (lease, passport, nameless):
            await each.keep_alive()
        await lease.describe(Hint("default/a", ("y",), "/ai-team/nodes/default/a"))
        found = await asyncio.to_thread(guarded.api, "GET", "/v1/health/service/ai-node?passing&tag=y")
        assert len(found) == 1
        assert len((await store.list("/ai-team/")).entries) == 2
        with pytest.raises(StoreDeniedError, match="key_prefix write"):
            await store.put("/elsewhere/a", b"")
        with pytest.raises(StoreDeniedError):
            await store.list("/elsewhere/")
        for each in (lease, passport, nameless):
            await each.revoke()
        assert (await store.list("/ai-team/")).entries == ()


async def test_a_reader_reads_and_is_told_that_it_may_not_write(guarded: Consul) -> None:
    owner, reader = guarded.url, await asyncio.to_thread(guarded.add_token, READER)
    async with open_store(owner) as writing, open_store(guarded.url_of(reader)) as store:
        info = await store.info()
        assert info.cluster_id == "dc1"
        await writing.put("/ai-team/r", b"1")
        position = (await store.list("/ai-team/r")).revision
        entry = await store.get("/ai-team/r")
        assert entry is not None
        async with store.watch("/ai-team/", from_revision=position + 1) as batches:
            revision = await writing.put("/ai-team/r", b"2")
            async with asyncio.timeout(10):
                while (await anext(batches)).revision < revision:
                    pass
        for attempt in (
            store.put("/ai-team/r", b""),
            store.put("/ai-team/r", b"", if_revision=revision),
            store.put("/ai-team/r", bytes(500_000)),
            store.delete("/ai-team/r"),
            store.grant(30, hint=Hint("default/a")),
            store.grant(30, lingering=True),
        ):
            with pytest.raises(StoreDeniedError, match="write"):
                await attempt
        await writing.delete("/ai-team/r")


async def test_a_wrong_token_and_none_are_refused_in_one_line_without_it(guarded: Consul) -> None:
    said: list[str] = []
    wrong = "99999999-2222-3333-4444-555555555555"
    blind = await asyncio.to_thread(guarded.add_token, 'key_prefix "other/" { policy = "write" }')
    for token in (wrong, None, blind):
        async with open_store(guarded.url_of(token)) as store:
            await _refused(store, said)
    for text in said:
        assert "\n" not in text
        assert wrong not in text
        assert blind not in text
        assert "CONSUL_HTTP_TOKEN" in text
        assert len(text) < 300


async def test_who_may_no_longer_look_is_not_shown_an_empty_store(guarded: Consul) -> None:
    """Consul leaves out of a listing what a token may not see: to one without rights the store looks empty."""
    token = await asyncio.to_thread(guarded.add_token, READER)
    async with open_store(guarded.url) as owner, open_store(guarded.url_of(token)) as store:
        await owner.put("/ai-team/seen", b"")
        position = (await store.list("/ai-team/seen")).revision
        policy = (await asyncio.to_thread(guarded.api, "GET", "/v1/acl/token/self"))["Policies"]
        assert policy
        policies = await asyncio.to_thread(guarded.api, "GET", "/v1/acl/policies")
        own = max(policies, key=lambda one: one["CreateIndex"])
        async with store.watch("/ai-team/seen", from_revision=position + 1) as batches:
            await asyncio.to_thread(
                guarded.api,
                "PUT",
                f"/v1/acl/policy/{own['ID']}",
                {"Name": own["Name"], "Rules": 'key_prefix "ai-team/" { policy = "deny" }'},
            )
            await owner.put("/ai-team/seen", b"1")
            with pytest.raises(StoreDeniedError):
                await asyncio.wait_for(_no_deletion(batches), 15)
        with pytest.raises(StoreDeniedError):
            await store.get("/ai-team/seen")
        await owner.delete("/ai-team/seen")


async def _no_deletion(batches: AsyncIterator[Batch]) -> None:
    async for batch in batches:
        assert not batch.snapshot
        assert all(change.type == "put" for change in batch.changes)


async def test_a_token_that_is_none_is_refused_before_anything_is_sent() -> None:
    for token in ("with%0d%0aheader", "%D0%B6", "a b"):
        with pytest.raises(ConfigError, match="token"):
            open_store(f"consul://{token}@127.0.0.1:8500")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


async def test_tls_and_a_certificate_of_our_own_work(
    tmp_path: Path, certificates: Certificates, start_consul: Callable[..., Consul]
) -> None:
    server = await asyncio.to_thread(start_consul, dev=True, tls=certificates, client_certificates=True)
    async with open_store(server.url) as store:
        lease = await store.grant(30, hint=Hint("default/a"))
        revision = await store.put("/ai-team/a", b"1", lease=lease.id)
        async with store.watch("/ai-team/", from_revision=revision) as batches:
            assert (await anext(batches)).revision >= revision
        await lease.revoke()
    other = Certificates(tmp_path / "other")
    stranger = other.issue("stranger")
    address = server.address
    said = []
    for url, match in (
        (f"consuls://{address}/?timeout=2", "not trusted"),
        (f"consuls://{address}/?timeout=2&ca={other.ca}", "not trusted"),
        (f"consuls://{address}/?timeout=2&ca={certificates.ca}", r"\?cert=FILE"),
        (
            f"consuls://{address}/?timeout=2&ca={certificates.ca}&cert={stranger.cert}&key={stranger.key}",
            r"\?cert=FILE",
        ),
        (f"consuls://127.0.0.1:{server.http_port}/?timeout=2&ca={certificates.ca}", "TLS"),
        (f"consul://{address}/?timeout=2", "consuls://"),
    ):
        async with open_store(url) as store:
            with pytest.raises(StoreUnavailableError, match=match) as caught:
                await store.get("/ai-team/a")
            said.append(str(caught.value))
    assert all("\n" not in text and len(text) < 300 for text in said), said


async def test_tls_files_that_cannot_be_read_are_said(tmp_path: Path, certificates: Certificates) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for query in (f"ca={broken}", f"ca={certificates.ca}&cert={broken}&key={broken}"):
        store = open_store(f"consuls://127.0.0.1:1/?{query}")
        with pytest.raises(ConfigError, match="PEM"):
            await store.get("/ai-team/a")
        await store.close()
