"""The servers that tests are run against: they start, answer, die, come back with their data, and leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from servers.http import request
from servers.ports import LOOPBACK, Ports

from roster._clock import boottime
from servers import (
    Certificates,
    Consul,
    Etcd,
    EtcdCluster,
    RabbitMQ,
    Server,
    ServerError,
    ServerMissingError,
    ZooKeeper,
)

KINDS = [
    pytest.param(Etcd, {"fsync": False}, marks=pytest.mark.store("etcd"), id="etcd"),
    pytest.param(Consul, {}, marks=pytest.mark.store("consul"), id="consul"),
    pytest.param(ZooKeeper, {"fsync": False}, marks=pytest.mark.store("zookeeper"), id="zookeeper"),
]
_PARENT = """
import sys
from pathlib import Path
from servers import Etcd
print(Etcd(Path(sys.argv[1]), fsync=False).start().pid, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def running(kind: type[Server], directory: Path, **options: Any) -> Iterator[Server]:
    with kind(directory, **options) as server:
        yield server


def put(server: Server, value: str) -> None:
    if isinstance(server, Etcd):
        server.ctl("put", "/kept", value)
    elif isinstance(server, Consul):
        assert request(server.http_port, "/v1/kv/kept", method="PUT", body=value)[1].strip() == "true"
    elif isinstance(server, ZooKeeper):
        with zookeeper(server) as client:
            client.create("/kept", value.encode())


def get(server: Server) -> str:
    if isinstance(server, Etcd):
        return server.ctl("get", "/kept", "--print-value-only").strip()
    if isinstance(server, Consul):
        return request(server.http_port, "/v1/kv/kept?raw&consistent")[1].strip('"')
    assert isinstance(server, ZooKeeper)
    with zookeeper(server) as client:
        return str(client.get("/kept")[0].decode()) if client.exists("/kept") else ""


def closed_at_first(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have the first two connections with TLS refused; return the ports that are asked for."""
    asked: list[int] = []
    connect = Certificates.connect

    def refused_at_first(self: Certificates, host: str, port: int, *, timeout: float) -> ssl.SSLSocket:
        asked.append(port)
        if len(asked) <= 2:
            raise ConnectionRefusedError
        return connect(self, host, port, timeout=timeout)

    monkeypatch.setattr(Certificates, "connect", refused_at_first)
    return asked


@contextlib.contextmanager
def zookeeper(server: ZooKeeper, **options: Any) -> Iterator[KazooClient]:
    client = KazooClient(hosts=server.address, **options)
    client.start(timeout=20)
    try:
        yield client
    finally:
        client.stop()
        client.close()


def gone(pid: int, within: float = 10.0) -> bool:
    until = boottime() + within
    while boottime() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def state(pid: int) -> str:
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip()[:1]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_server_killed_and_restarted_keeps_its_address_and_its_data_and_a_wiped_one_its_address(
    kind: type[Server], options: dict[str, Any], tmp_path: Path
) -> None:
    with running(kind, tmp_path, **options) as server:
        url, first = server.url, server.pid
        put(server, "bees")
        assert get(server) == "bees"
        server.kill()
        assert gone(first)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, urllib.parse.urlsplit(url).port or 0), timeout=5)
        server.restart()
        assert (server.url, get(server)) == (url, "bees")
        assert server.pid != first
        server.wipe()
        assert server.url == url
        assert get(server) != "bees"
        last = server.pid
    assert gone(last)


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_frozen_server_says_nothing_and_a_thawed_one_goes_on(
    kind: type[Server], options: dict[str, Any], tmp_path: Path
) -> None:
    with running(kind, tmp_path, **options) as server:
        server.freeze()
        assert state(server.pid) == "T"
        assert server.alive
        with pytest.raises(TimeoutError):
            server.answers()
        server.thaw()
        server.wait_ready()
        server.freeze()
        frozen = server.pid
    assert gone(frozen)


@pytest.mark.store("etcd")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
def test_a_server_goes_with_the_process_that_started_it(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, signal.SIGSTOP)
        parent.send_signal(number)
        parent.wait(10)
    assert gone(pid)


@pytest.mark.store("consul")
def test_a_server_that_cannot_start_says_how_its_log_ends(tmp_path: Path) -> None:
    server = Consul(tmp_path, settings={"nonsense": True})
    with pytest.raises(ServerError, match=r"ended instead of answering(.|\n)*nonsense"), server:
        pass
    assert not server.alive


@pytest.mark.store("etcd")
def test_a_server_that_does_not_answer_in_time_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Etcd, "answers", lambda self: False)
    server = Etcd(tmp_path, fsync=False, start_within=0.5)
    with pytest.raises(ServerError, match=r"did not answer within 0\.5 s"), server:
        pass
    assert not server.alive


@pytest.mark.parametrize(("kind", "options"), [KINDS[0], KINDS[2]])
def test_a_new_server_takes_another_port_than_one_that_is_taken(
    kind: type[Server], options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        taken = other.getsockname()[1]
        chosen = Ports._choose
        asked: list[int] = []

        def first_taken(self: Ports) -> int:
            asked.append(len(asked))
            return taken if len(asked) == 1 else chosen(self)

        monkeypatch.setattr(Ports, "_choose", first_taken)
        with running(kind, tmp_path, **options) as server:
            assert str(taken) not in server.url
            assert server.answers()
    assert len(asked) > len(kind.port_names), "the first choice was not taken"


def test_a_port_that_is_held_is_given_to_nobody_else() -> None:
    if sys.platform != "linux":
        return
    ports = Ports("one")
    try:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((LOOPBACK, ports["one"]))
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((LOOPBACK, ports["one"]))
            server.listen()
    finally:
        ports.release()


@pytest.mark.store("etcd")
def test_users_of_an_etcd_may_do_what_they_were_allowed_over_a_restart_and_tls(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "tls")
    with Etcd(
        tmp_path / "etcd", fsync=False, root_password="p/w", tls=certificates, client_certificates=True
    ) as server:
        server.add_user("reader", "only", access="read", prefix="/team/")
        server.restart()
        server.ctl("put", "/team/a", "1")
        server.root_password = None
        reader = ("--user", "reader:only")
        assert server.ctl("get", "/team/a", "--print-value-only", *reader).strip() == "1"
        with pytest.raises(ServerError, match="permission denied"):
            server.ctl("put", "/team/a", "2", *reader)
        assert server.url.startswith("etcds://127.0.0.1:")
        assert f"key={certificates.client.key}" in server.url


@pytest.mark.store("etcd")
def test_an_etcd_restored_from_a_backup_has_gone_back(
    start_etcd: Callable[..., Etcd], tmp_path: Path
) -> None:
    server = start_etcd(fsync=False)
    put(server, "then")
    backup = server.snapshot(tmp_path / "backup")
    put(server, "now")
    url = server.url
    server.restore(backup)
    assert (get(server), server.url) == ("then", url)


def test_a_cluster_elects_another_leader_and_takes_the_old_one_back(
    start_etcd_cluster: Callable[..., EtcdCluster],
) -> None:
    cluster = start_etcd_cluster(fsync=False)
    assert cluster.url.count(",") == 2
    old = cluster.leader()
    put(old, "bees")
    old.kill()
    new = cluster.leader()
    assert new is not old
    assert get(new) == "bees"
    old.restart()
    assert get(old) == "bees"


def test_a_consul_with_access_control_and_tls_knows_its_tokens_after_a_restart(
    start_consul: Callable[..., Consul], tmp_path: Path
) -> None:
    server = start_consul(acl=True, tls=Certificates(tmp_path / "tls"))
    assert server.url.startswith("consuls://:")
    reader = server.add_token('key_prefix "team/" { policy = "read" }')
    server.restart()
    assert request(server.http_port, "/v1/kv/team/a", method="PUT", body="1", token=server.token)[0] == 200
    assert request(server.http_port, "/v1/kv/team/a", method="PUT", body="2", token=reader)[0] == 403
    assert request(server.http_port, "/v1/kv/team/a?raw", token=reader) == (200, '"1"')


def test_a_consul_that_does_not_know_its_tokens_yet_is_not_ready(
    start_consul: Callable[..., Consul], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader that has not read its log again after a restart answers, and refuses every token."""
    server = start_consul(dev=True, acl=True)
    refused = iter([403, 403])
    asked = []

    def once_forgetful(port: int, path: str, **options: Any) -> tuple[int, str]:
        asked.append(path)
        status = next(refused, None)
        return (status, "ACL not found") if status else request(port, path, **options)

    monkeypatch.setattr("servers.consul.request", once_forgetful)
    server.wait_ready()
    assert len(asked) == 3


def test_a_consul_without_its_data_gets_a_token_of_its_own_again(start_consul: Callable[..., Consul]) -> None:
    server = start_consul(acl=True)
    before = server.token
    server.wipe()
    assert server.token != before
    assert request(server.http_port, "/v1/kv/a", method="PUT", body="1", token=server.token)[0] == 200
    assert request(server.http_port, "/v1/kv/a", token=before)[0] == 403


def test_a_zookeeper_with_tls_takes_only_clients_with_a_certificate(
    start_zookeeper: Callable[..., ZooKeeper], tmp_path: Path
) -> None:
    certificates = Certificates(tmp_path / "tls")
    server = start_zookeeper(fsync=False, tls=certificates, client_certificates=True)
    pair = {"certfile": str(certificates.client.cert), "keyfile": str(certificates.client.key)}
    with zookeeper(server, use_ssl=True, ca=str(certificates.ca), **pair) as client:
        assert "zookeeper" in client.get_children("/")
    context = ssl.create_default_context(cafile=certificates.ca)
    host, _, port = server.address.partition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
        context.wrap_socket(plain, server_hostname="localhost") as stranger,
    ):
        stranger.recv(1)  # in TLS 1.3 the refusal comes when one reads


def test_a_rabbitmq_whose_port_for_tls_is_not_open_yet_is_not_ready(
    start_rabbitmq: Callable[..., RabbitMQ], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens that port some moments after the other one."""
    server = start_rabbitmq(tls=Certificates(tmp_path / "tls"), client_certificates=True)
    asked = closed_at_first(monkeypatch)
    server.wait_ready()
    assert asked[:3] == [server.ports["amqps"]] * 3


def test_a_zookeeper_whose_port_for_tls_is_not_open_yet_is_not_ready(
    start_zookeeper: Callable[..., ZooKeeper], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens that port some moments after the other one serves."""
    server = start_zookeeper(fsync=False, tls=Certificates(tmp_path / "tls"), client_certificates=True)
    asked = closed_at_first(monkeypatch)
    server.wait_ready()
    assert asked[:3] == [server.ports["secure"]] * 3


def test_an_engine_that_nobody_found_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "servers.json"
    monkeypatch.setenv("ROSTER_TEST_SERVERS", str(index))
    with pytest.raises(
        ServerMissingError, match=r"no etcd here: run scripts/setup-servers etcd, or .*ROSTER_TEST_ETCD"
    ):
        Etcd(tmp_path / "etcd").start()
    index.write_text('{"etcd": {"missing": "no mirror"}}')
    with pytest.raises(ServerMissingError, match=r"no etcd here \(no mirror\): run"):
        Etcd(tmp_path / "etcd").start()
