"""Users, passwords, tokens and rights of etcd."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.store.etcd.conftest import eventually

from roster.errors import StoreDeniedError
from roster.store import Change, Store, open_store
from servers import Etcd

Start = Callable[..., Etcd]
PASSWORD = "s3cret"
AUTHENTICATED = (
    'grpc_server_handled_total{grpc_code="OK",grpc_method="Authenticate",grpc_service="etcdserverpb.Auth",'
    'grpc_type="unary"}'
)


async def _served(start_etcd: Start) -> Etcd:
    # Cheap hashes of passwords: the strength of etcd's is not under test.
    extra = ["--bcrypt-cost=4", "--log-level=debug"]
    options = {"fsync": False, "root_password": PASSWORD, "token_ttl": 1, "extra": extra}
    return await asyncio.to_thread(start_etcd, **options)


async def test_a_token_that_ran_out_is_replaced_and_a_watch_goes_on(start_etcd: Start) -> None:
    server = await _served(start_etcd)
    async with open_store(server.url) as store:
        lease = await store.grant(30)
        revision = await store.put("/a", b"1")
        async with store.watch("/", from_revision=revision + 1) as batches:
            await lease.keep_alive()
            made = server.metric(AUTHENTICATED)
            await _token_ran_out(server)
            # All at once: one of them asks for another token, the others take it.
            await asyncio.gather(*(store.get("/a") for _ in range(20)), store.put("/a", b"2"))
            assert server.metric(AUTHENTICATED) == made + 1
            await _token_ran_out(server)
            await lease.keep_alive()
            await store.put("/a", b"3")
            got: list[Change] = []
            async with asyncio.timeout(15):
                while len(got) < 2:
                    got += (await anext(batches)).changes
            assert [change.value for change in got] == [b"2", b"3"]
        await _token_ran_out(server)
        async with store.watch("/", from_revision=revision + 1) as batches, asyncio.timeout(15):
            assert (await anext(batches)).changes[0].value == b"2"


async def _token_ran_out(server: Etcd) -> None:
    """Wait until the server says that it has forgotten a token; to ask it otherwise would keep the token alive."""
    seen = server.log.stat().st_size
    async with asyncio.timeout(30):
        while b"deleted a simple token" not in server.log.read_bytes()[seen:]:
            await asyncio.sleep(0.05)


async def test_a_restarted_server_knows_no_tokens_and_is_told_anew(start_etcd: Start) -> None:
    server = await _served(start_etcd)
    async with open_store(server.url) as store:
        lease = await store.grant(30)
        await lease.keep_alive()
        await store.put("/a", b"1")
        await asyncio.to_thread(server.restart)
        await eventually(lambda: store.get("/a"))
        await store.put("/a", b"2")
        await lease.keep_alive()


async def test_users_that_come_later_are_noticed(start_etcd: Start) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False)
    async with open_store(f"etcd://root:{PASSWORD}@{server.address}") as store:
        await store.put("/a", b"1")  # a password where none is needed does no harm
        server.root_password = PASSWORD
        await asyncio.to_thread(server.prepare)
        await store.put("/a", b"2")
        async with open_store(f"etcd://{server.address}") as stranger:
            with pytest.raises(StoreDeniedError, match="asks for a user and a password"):
                await stranger.get("/a")


@pytest.mark.parametrize(("user", "password"), [("root", "wr0ng"), ("nobody", "wr0ng"), ("root", "")])
async def test_a_wrong_password_is_said_in_one_line(start_etcd: Start, user: str, password: str) -> None:
    server = await _served(start_etcd)
    async with open_store(server.url_of(user, password)) as store:
        for attempt in (
            store.get("/a"),
            store.put("/a", b""),
            store.grant(30),
            store.info(),
            _watch(store, "/"),
        ):
            with pytest.raises(StoreDeniedError, match="user name or password is wrong") as caught:
                await attempt
            assert repr(user) in str(caught.value)
            _is_one_line_without_secrets(str(caught.value))


async def test_rights_at_the_prefix_alone_are_enough(start_etcd: Start) -> None:
    server = await _served(start_etcd)
    await asyncio.to_thread(server.add_user, "team", "pw", prefix="/team-b/")
    async with open_store(server.url_of("team", "pw") + "/?prefix=/team-b") as store:
        assert (await store.info()).engine == "etcd"
        lease = await store.grant(30)
        revision = await store.put("/ai-team/nodes/a", b"1", lease=lease.id)
        async with store.watch("/ai-team/", from_revision=revision) as batches, asyncio.timeout(10):
            assert (await anext(batches)).changes[0].key == "/ai-team/nodes/a"
        assert await store.transact((), ()) == revision
        await lease.keep_alive()
        await lease.revoke()
    async with open_store(server.url_of("team", "pw")) as store:
        for attempt in (store.info(), store.get("/ai-team/a"), store.put("/ai-team/a", b"")):
            with pytest.raises(StoreDeniedError, match=r"the user 'team' may not (read|write) '/ai-team/"):
                await attempt


async def test_who_may_only_read_is_told_what_it_may_not_write(start_etcd: Start) -> None:
    server = await _served(start_etcd)
    await asyncio.to_thread(server.add_user, "reader", "pw", access="read", prefix="/ai-team/")
    async with open_store(server.url_of("reader", "pw")) as store:
        assert await store.get("/ai-team/a") is None
        assert (await store.list("/ai-team/")).entries == ()
        with pytest.raises(StoreDeniedError, match="'reader' may not write '/ai-team/a'") as caught:
            await store.put("/ai-team/a", b"")
        _is_one_line_without_secrets(str(caught.value))
        with pytest.raises(StoreDeniedError, match="'reader' may not"):
            await _watch(store, "/")


async def test_a_right_that_is_taken_away_ends_the_watch_or_the_next_one(start_etcd: Start) -> None:
    server = await _served(start_etcd)
    await asyncio.to_thread(server.add_user, "reader", "pw", access="read", prefix="/ai-team/")
    async with open_store(server.url_of("reader", "pw")) as store:
        assert await store.get("/ai-team/a") is None
        await asyncio.to_thread(server.ctl, "user", "revoke-role", "reader", "reader-role")
        with pytest.raises(StoreDeniedError):
            await store.get("/ai-team/a")
        with pytest.raises(StoreDeniedError):
            await _watch(store, "/ai-team/")


async def _watch(store: Store, prefix: str) -> None:
    async with store.watch(prefix, from_revision=1) as batches, asyncio.timeout(10):
        await anext(batches)


def _is_one_line_without_secrets(text: str) -> None:
    assert "\n" not in text
    assert len(text) < 300
    assert not any(secret in text for secret in (PASSWORD, "wr0ng", "pw@", ":pw"))
