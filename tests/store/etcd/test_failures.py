"""Every answer of etcd and gRPC that is known, as one line that says what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.store.etcd.conftest import eventually

from roster.errors import (
    LeaseLostError,
    LimitError,
    RevisionCompactedError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
)
from roster.store import Put, Store, open_store
from roster.store.etcd.failures import Failure, refusal, said
from servers import Etcd

Start = Callable[..., Etcd]


@pytest.mark.parametrize(
    ("code", "text", "away", "not_done", "reason"),
    [
        (
            "UNAVAILABLE",
            "failed to connect to all addresses; last error: ... Connection refused",
            1,
            1,
            "refused",
        ),
        ("UNAVAILABLE", "failed to connect to all addresses; ... Socket closed", 1, 1, "does it speak TLS"),
        ("UNAVAILABLE", "Socket closed", 1, 0, "broke off"),
        ("UNAVAILABLE", "recvmsg:Connection reset by peer", 1, 0, "broke off"),
        ("UNAVAILABLE", "errors resolving x:1: Domain name not found", 1, 1, "not known"),
        ("UNAVAILABLE", "etcdserver: no leader", 1, 1, "no leader"),
        ("UNAVAILABLE", "etcdserver: leader changed", 1, 0, "leader changed"),
        ("UNAVAILABLE", "etcdserver: request timed out", 1, 0, "request timed out"),
        ("UNAVAILABLE", "ping timeout", 1, 0, "ping timeout"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", 1, 0, "no answer in time"),
        ("RESOURCE_EXHAUSTED", "etcdserver: too many requests", 1, 1, "too many requests"),
        ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", 0, 0, "space exceeded"),
        ("INTERNAL", "", 1, 0, "INTERNAL"),
        ("UNKNOWN", "\x1b[31mred\n", 1, 0, r"\x1b[31mred\x0a"),
        ("PERMISSION_DENIED", "etcdserver: permission denied", 0, 0, "permission denied"),
    ],
)
def test_what_failed_tells_whether_another_member_may_help(
    code: str, text: str, away: int, not_done: int, reason: str
) -> None:
    failure = Failure(code, text)
    assert (failure.away, failure.not_done) == (bool(away), bool(not_done))
    assert reason in failure.reason


@pytest.mark.parametrize(
    ("code", "text", "kind", "words"),
    [
        ("NOT_FOUND", "etcdserver: requested lease not found", LeaseLostError, "grant another"),
        ("PERMISSION_DENIED", "etcdserver: permission denied", StoreDeniedError, "may not write '/a'"),
        ("UNAUTHENTICATED", "etcdserver: invalid auth token", StoreDeniedError, "a user and a password"),
        ("INVALID_ARGUMENT", "etcdserver: user name is empty", StoreDeniedError, "ROSTER_REGISTRY_USER"),
        ("INVALID_ARGUMENT", "etcdserver: authentication failed, ...", StoreDeniedError, "password is wrong"),
        ("INVALID_ARGUMENT", "etcdserver: request is too large", LimitError, "--max-request-bytes"),
        ("RESOURCE_EXHAUSTED", "grpc: received message larger than max", LimitError, "write less"),
        ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", StoreError, "alarm disarm"),
        (
            "OUT_OF_RANGE",
            "etcdserver: mvcc: required revision has been compacted",
            RevisionCompactedError,
            "list",
        ),
        ("FAILED_PRECONDITION", "etcdserver: \x1b]0;odd" + "x" * 999, StoreError, "refused to write '/a'"),
    ],
)
def test_a_refusal_is_one_line_that_says_what_to_do(
    code: str, text: str, kind: type[StoreError], words: str
) -> None:
    error = refusal(Failure(code, text), "etcd://db:2379", "the user 'bob'", "write '/a'")
    assert type(error) is kind
    assert words in str(error)
    assert "\x1b" not in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 300


@pytest.mark.parametrize(
    ("reason", "code", "bad_token"),
    [
        (
            "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
            "UNAUTHENTICATED",
            True,
        ),
        (
            "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
            "PERMISSION_DENIED",
            False,
        ),
        ("etcdserver: permission denied", "PERMISSION_DENIED", False),
        ("etcdserver: no leader", "UNAVAILABLE", False),
        ("", "UNAVAILABLE", False),
    ],
)
def test_the_reason_of_a_cancelled_watch_is_understood(reason: str, code: str, bad_token: bool) -> None:
    failure = Failure.of_reason(reason)
    assert (failure.code, failure.bad_token) == (code, bad_token)


def test_what_a_server_says_is_cut_short() -> None:
    assert said("etcdserver: " + "x" * 10_000) == "x" * 200 + "…"


async def test_a_transaction_that_is_too_large_says_so_and_does_nothing(etcd_server: str) -> None:
    async with open_store(etcd_server) as store:
        for count in (4, 20):  # over the limit of etcd, then over that of its gRPC
            with pytest.raises(LimitError, match="takes no request of this size"):
                await store.transact((), [Put(f"/large/{number}", bytes(500_000)) for number in range(count)])
        assert (await store.list("/large/")).entries == ()


async def test_a_full_server_says_what_to_do_and_goes_on_reading(start_etcd: Start) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False, quota=2_000_000)
    async with open_store(server.url) as store:
        lease = await store.grant(30)
        await store.put("/a", b"", lease=lease.id)
        with pytest.raises(StoreError, match="is full and takes no writes") as caught:
            await _fill(store)
        assert type(caught.value) is StoreError
        assert await store.get("/a") is not None
        assert (await store.list("/")).entries
        await lease.keep_alive()


async def _fill(store: Store) -> None:
    async with asyncio.timeout(30):
        for number in range(1000):
            await store.put(f"/{number % 10}", bytes(300_000))


async def test_a_write_that_reached_a_dying_server_says_that_its_outcome_is_unknown(
    start_etcd: Start,
) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False)
    async with open_store(f"{server.url}/?timeout=2") as store:
        revision = await store.put("/a", b"1")
        server.freeze()
        with pytest.raises(StoreUnavailableError, match="not known whether it did write '/a'"):
            await store.put("/a", b"2", if_revision=revision)
        server.thaw()
        await eventually(store.info)
        entry = await store.get("/a")
        assert entry is not None
        # It got there or not; it was not sent twice.
        assert entry.mod_revision in (revision, revision + 1)
        assert (await store.info()).revision == entry.mod_revision
