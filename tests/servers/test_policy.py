"""What a run does about servers that are not here, and about stores that it was not asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from servers.compose import FILE, Container
from servers.process import ServerError

PROJECT = FILE.parent.parent
# A suite in which every engine is asked for, and one test asks for none.
SUITE = """
import os
import pytest
from tests import engines
from tests.engines import not_here, shared_url, store_params

engines._has_apt = lambda: os.environ["MACHINE"] == "debian"
os.geteuid = lambda: int(os.environ["ID"])

def test_needs_nothing(): pass
def test_shares(etcd_server): pass
def test_shares_again(etcd_server): pass
def test_starts_its_own(start_consul): start_consul()
@pytest.mark.parametrize("store", store_params("memory", "zookeeper"))
def test_each(store):
    if store == "zookeeper":
        print("URL", shared_url(store))
"""

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A function that runs the suite in a process, on a machine where an index says which servers there are."""
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tests.engines"]\n')
    index = tmp_path / "servers.json"

    def run(
        *arguments: str, servers: dict[str, dict[str, str]] | None = None, **variables: str
    ) -> tuple[int, str]:
        index.write_text(json.dumps(servers or {}))
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ROSTER_", "CI", "PYTEST"))
        }
        environment = {
            **inherited,
            "ROSTER_TEST_SERVERS": str(index),
            "PYTHONPATH": str(PROJECT),
            "MACHINE": "debian",
            "ID": "1",
            **variables,
        }
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-p",
                "no:cacheprovider",
                "-ra",
                "--rootdir",
                tmp_path,
                tmp_path,
                *arguments,
            ],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        return done.returncode, done.stderr + done.stdout

    return run


@pytest.mark.parametrize("parallel", [(), ("-n", "2")], ids=["alone", "in parallel"])
def test_an_ordinary_machine_skips_and_the_last_lines_say_what_and_how_to_get_it(
    run: Run, parallel: tuple[str, ...]
) -> None:
    status, said = run(*parallel, servers={"consul": {"missing": "no mirror"}})
    assert status == 0, said
    lines = said.strip().splitlines()[-4:]
    assert lines[0] == (
        "NOT TRIED (1 tests): consul: no consul here (no mirror): run scripts/setup-servers consul, "
        "or name a server: ROSTER_TEST_CONSUL=URL"
    )
    assert lines[1].startswith("NOT TRIED (2 tests): etcd: no etcd here: run scripts/setup-servers etcd")
    assert lines[2].startswith("NOT TRIED (1 tests): zookeeper: no zookeeper here")
    assert "2 passed, 4 skipped" in lines[3]


def test_with_ci_each_test_of_a_missing_server_fails_in_one_line(run: Run) -> None:
    status, said = run(CI="true")
    assert status == 1
    assert "2 failed, 2 passed, 2 errors" in said.splitlines()[-1]
    assert "consul: no consul here: run scripts/setup-servers consul" in said
    assert "NOT TRIED" not in said


@pytest.mark.parametrize(
    ("machine", "user", "fails"), [("debian", 0, True), ("other", 0, False), ("debian", 1, False)]
)
def test_without_ci_it_fails_as_root_where_there_is_apt_alone(
    run: Run, machine: str, user: int, fails: bool
) -> None:
    status, said = run(MACHINE=machine, ID=str(user))
    assert (status == 1, "NOT TRIED" in said) == (fails, not fails)


def test_what_was_not_asked_for_is_left_out_and_the_last_line_but_one_says_so(run: Run) -> None:
    status, said = run(CI="true", ROSTER_TEST_STORES="memory,sqlite")
    assert status == 0, said
    assert said.strip().splitlines()[-2] == "NOT ASKED FOR by STORES: etcd, consul, zookeeper"
    assert "2 passed, 4 deselected" in said


def test_an_unknown_store_is_an_error(run: Run) -> None:
    status, said = run(ROSTER_TEST_STORES="memory,redis")
    assert status == 4
    assert "no store redis; there are memory, sqlite, etcd, consul, zookeeper" in said
    command = ["make", "STORES=memory,redis", "-n", "test"]
    make = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert make.returncode != 0
    assert "no store redis" in make.stderr


def test_a_named_server_is_used_instead_of_one_of_our_own(run: Run) -> None:
    named = "zookeeper://127.0.0.1:1"
    status, said = run("-s", "-k", "each", CI="true", ROSTER_TEST_ZOOKEEPER=named)
    assert status == 0, said
    assert f"URL {named}" in said


def test_a_server_that_does_not_come_up_fails_on_every_machine(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "etcd"
    broken.write_text("#!/bin/sh\necho broken to the core\nexit 1\n")
    broken.chmod(0o755)
    status, said = run("-k", "shares", servers={"etcd": {"etcd": str(broken)}})
    assert status == 1
    assert "2 errors" in said.splitlines()[-1]
    assert "broken to the core" in said


DOCKER = """#!/bin/sh
echo "port=$ROSTER_ETCD_PORT $*" >> "$CALLS"
case "$*" in *" up "*) [ -z "$NO_IMAGE" ] || { echo "no such image" >&2; exit 1; } ;; esac
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a `docker` that only takes notes was asked."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


def test_where_there_are_only_containers_one_is_brought_up_and_taken_down_again(calls: Path) -> None:
    with Container("etcd") as server:
        port = server.url.rpartition(":")[2]
        assert server.url == f"etcd://127.0.0.1:{port}"
    compose = f"port={port} compose -p roster-etcd-{port} -f {FILE}"
    assert calls.read_text().splitlines() == [
        f"{compose} up -d --wait etcd",
        f"{compose} down --volumes --timeout=0",
    ]


def test_a_container_that_does_not_come_up_is_an_error_and_is_taken_down(
    calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_IMAGE", "1")
    with pytest.raises(ServerError, match="did not bring etcd up: no such image"), Container("etcd"):
        pass
    assert calls.read_text().splitlines()[-1].endswith("down --volumes --timeout=0")


def test_containers_serve_tests_that_share_and_not_those_that_kill(run: Run, calls: Path) -> None:
    servers = {name: {"docker": "compose"} for name in ("etcd", "consul", "zookeeper")}
    status, said = run(servers=servers)
    assert status == 0, said
    assert "5 passed, 1 skipped" in said
    assert "NOT TRIED (1 tests): consul: no consul here but in a container" in said
    assert [line.split()[6] for line in calls.read_text().splitlines()] == ["up", "up", "down", "down"]


def test_the_compose_file_pins_its_images_listens_on_loopback_and_says_when_each_is_healthy() -> None:
    services = yaml.safe_load(FILE.read_text())["services"]
    ports = {"etcd": 2379, "consul": 8500, "zookeeper": 2181, "rabbitmq": 5672}
    assert set(ports) <= set(services)
    for name in ports:
        service = services[name]
        # A whole team is on etcd and RabbitMQ; the others come when they are asked for.
        assert service.get("profiles", []) == ([name] if name in ("consul", "zookeeper") else [])
        assert service["image"].rpartition(":")[2].lstrip("v").count(".") == 2
        own = f"127.0.0.1:${{ROSTER_{name.upper()}_PORT:-{ports[name]}}}:{ports[name]}"
        assert service["ports"][0] == own
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["healthcheck"]["test"][0] == "CMD"
