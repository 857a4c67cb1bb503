"""Which stores the tests are run on, the servers for them, and what is said of those that are not here."""

from __future__ import annotations

import itertools
import os
import re
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pytest
from servers.compose import Container
from servers.programs import in_container

from servers import Consul, Etcd, EtcdCluster, Postgres, RabbitMQ, ServerError, ServerMissingError, ZooKeeper

STORES = ("memory", "sqlite", "etcd", "consul", "zookeeper")
# A bus is no store: STORES neither asks for it nor leaves it out.
BUSES = ("memory", "local", "amqp")
# How a skip is known for one that `not_here` made, after it has travelled from another process.
_MARK = "not tried: "
# What a test that takes a fixture needs.
_FIXTURES = {
    "etcd_server": "etcd",
    "start_etcd": "etcd",
    "start_etcd_cluster": "etcd",
    "consul_server": "consul",
    "start_consul": "consul",
    "zookeeper_server": "zookeeper",
    "start_zookeeper": "zookeeper",
}
_shared = ExitStack()
# Buses are made many at a time: each costs the broker some hundredths of a second at its start, later a command that takes
# half a second makes them.
_VHOSTS_AT_A_TIME = 50
_vhosts = itertools.count()
_unused: list[str] = []
_brokers: list[RabbitMQ] = []
_databases: list[Postgres] = []


def not_here(what: str, how: str) -> NoReturn:
    """End a test that needs something which this machine does not have.

    It fails with `CI=true` and where the tests run as root on Debian or Ubuntu, since everything can be had there. Elsewhere
    it is skipped, and the last lines of the run say so.

    Args:
        what: what is missing, in a word or two.
        how: why, and what to do.
    """
    if os.environ.get("CI") == "true" or (os.geteuid() == 0 and _has_apt()):
        pytest.fail(f"{what}: {how}", pytrace=False)
    pytest.skip(f"{_MARK}{what}: {how}")


def _has_apt() -> bool:
    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        return False
    return re.search(r"^ID=\"?(debian|ubuntu)\"?$", text, re.MULTILINE) is not None


def stores() -> tuple[str, ...]:
    """Return the stores that this run is asked for: `ROSTER_TEST_STORES`, a list with commas; without it all.

    Raises:
        pytest.UsageError: one of them is unknown.
    """
    wanted = [name for name in re.split(r"[,\s]+", os.environ.get("ROSTER_TEST_STORES", "")) if name]
    if unknown := [name for name in wanted if name not in STORES]:
        raise pytest.UsageError(
            f"ROSTER_TEST_STORES: no store {', '.join(unknown)}; there are {', '.join(STORES)}"
        )
    return tuple(name for name in STORES if name in wanted or not wanted)


def store_params(*names: str) -> list[Any]:
    """Return parameters for a fixture or a test, one a store, each marked with the store that it needs."""
    return [pytest.param(name, marks=pytest.mark.store(name)) for name in names]


def shared_url(engine: str) -> str:
    """Return the URL of a server that the tests of this process share: for tests that only need a store, or a bus.

    It is started when it is first asked for, lives until the process ends, and no test kills or freezes it. An address in
    `ROSTER_TEST_ETCD`, `..._CONSUL`, `..._ZOOKEEPER`, `..._RABBITMQ` or `..._POSTGRES` is used instead.

    Args:
        engine: `etcd`, `consul`, `zookeeper`, `rabbitmq` or `postgres`.
    """
    named = os.environ.get(f"ROSTER_TEST_{engine.upper()}")
    if named:
        return named
    url, error = _start_shared(engine)
    if isinstance(error, ServerMissingError):
        not_here(engine, str(error))
    if error is not None:
        pytest.fail(str(error), pytrace=False)
    return url


def own_bus() -> str:
    """Return the URL of a bus on the shared RabbitMQ that no other test uses: a virtual host of its own.

    On a broker in a container, or one that `ROSTER_TEST_RABBITMQ` names, all share the one bus that there is.
    """
    url = shared_url("rabbitmq")
    if not _brokers:
        return url
    if not _unused:
        more = _more_vhosts()
        _brokers[0].add_vhosts(more)
        _unused.extend(more)
    return _brokers[0].url_of(vhost=_unused.pop(0))


def own_database() -> str:
    """Return the URL of a database on the shared PostgreSQL that no other test uses."""
    url = shared_url("postgres")
    if _databases:
        return _databases[0].new_database()
    import psycopg

    name = f"roster_test_{uuid.uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def _more_vhosts() -> list[str]:
    return [f"test-{next(_vhosts)}" for _ in range(_VHOSTS_AT_A_TIME)]


@cache
def _start_shared(engine: str) -> tuple[str, Exception | None]:
    """A server that does not come up is tried once, not once a test."""
    try:
        if in_container(engine):
            return _shared.enter_context(Container(engine)).url, None
        directory = Path(_shared.enter_context(tempfile.TemporaryDirectory(prefix=f"roster-{engine}-")))
        if engine == "etcd":
            return _shared.enter_context(Etcd(directory, fsync=False)).url, None
        if engine == "consul":
            return _shared.enter_context(Consul(directory, dev=True)).url, None
        if engine == "rabbitmq":
            _unused.extend(_more_vhosts())
            broker = _shared.enter_context(RabbitMQ(directory, vhosts=_unused))
            _brokers.append(broker)
            return broker.url, None
        if engine == "postgres":
            _databases.append(_shared.enter_context(Postgres(directory, fsync=False)))
            return _databases[0].url, None
        return _shared.enter_context(ZooKeeper(directory, fsync=False)).url, None
    except (ServerError, ServerMissingError) as error:
        return "", error


@pytest.fixture(scope="session")
def etcd_server() -> str:
    """The URL of an etcd that the tests of this process share."""
    return shared_url("etcd")


@pytest.fixture(scope="session")
def consul_server() -> str:
    """The URL of a Consul that the tests of this process share."""
    return shared_url("consul")


@pytest.fixture(scope="session")
def zookeeper_server() -> str:
    """The URL of a ZooKeeper that the tests of this process share."""
    return shared_url("zookeeper")


@pytest.fixture(scope="session")
def rabbitmq_server() -> str:
    """The URL of a RabbitMQ that the tests of this process share."""
    return shared_url("rabbitmq")


def _starter(kind: type[Any], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    with ExitStack() as stack:
        started = Counter[str]()

        def start(**options: Any) -> Any:
            started[kind.__name__] += 1
            directory = tmp_path / f"{kind.__name__.lower()}-{started[kind.__name__]}"
            try:
                return stack.enter_context(kind(directory, **options))
            except ServerMissingError as error:
                not_here(kind.engine, str(error))

        yield start


@pytest.fixture
def start_etcd(tmp_path: Path) -> Iterator[Callable[..., Etcd]]:
    """A function that starts an etcd of this test alone, to be killed and frozen; its options are those of `Etcd`."""
    yield from _starter(Etcd, tmp_path)


@pytest.fixture
def start_etcd_cluster(tmp_path: Path) -> Iterator[Callable[..., EtcdCluster]]:
    """A function that starts a cluster of this test alone; its options are those of `EtcdCluster`."""
    yield from _starter(EtcdCluster, tmp_path)


@pytest.fixture
def start_consul(tmp_path: Path) -> Iterator[Callable[..., Consul]]:
    """A function that starts a Consul of this test alone; its options are those of `Consul`."""
    yield from _starter(Consul, tmp_path)


@pytest.fixture
def start_zookeeper(tmp_path: Path) -> Iterator[Callable[..., ZooKeeper]]:
    """A function that starts a ZooKeeper of this test alone; its options are those of `ZooKeeper`."""
    yield from _starter(ZooKeeper, tmp_path)


@pytest.fixture
def start_rabbitmq(tmp_path: Path) -> Iterator[Callable[..., RabbitMQ]]:
    """A function that starts a RabbitMQ of this test alone; its options are those of `RabbitMQ`."""
    yield from _starter(RabbitMQ, tmp_path)


@pytest.fixture
def start_postgres(tmp_path: Path) -> Iterator[Callable[..., Postgres]]:
    """A function that starts a PostgreSQL of this test alone; its options are those of `Postgres`."""
    yield from _starter(Postgres, tmp_path)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse an unknown store at once."""
    config.addinivalue_line(
        "markers", "store(name): needs that store; `make test STORES=...` may leave it out"
    )
    stores()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a store that was not asked for."""
    wanted = set(stores())
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        (kept if _needs(item) <= wanted else left).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


def _needs(item: pytest.Item) -> set[str]:
    names = getattr(item, "fixturenames", ())
    return {mark.args[0] for mark in item.iter_markers("store")} | {
        _FIXTURES[name] for name in names if name in _FIXTURES
    }


def pytest_sessionfinish() -> None:
    """End what was started for all."""
    _shared.close()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Say last what was not tried."""
    yield
    missing: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if _MARK in why:
            missing[why.partition(_MARK)[2]] += 1
    for why, count in sorted(missing.items()):
        terminalreporter.write_line(f"NOT TRIED ({count} tests): {why}", yellow=True)
    if left := [name for name in STORES if name not in stores()]:
        terminalreporter.write_line(f"NOT ASKED FOR by STORES: {', '.join(left)}", yellow=True)
