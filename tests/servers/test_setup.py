"""How the tests' servers are looked for: over whose mirrors, what is said without any, and what is not done twice."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from servers.compose import FILE

SCRIPT = FILE.parent.parent / "scripts" / "setup-servers"
SOURCES = """# a comment
Types: deb deb-src
URIs: https://one.example/debian
  https://two.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: https://off.example/debian
Suites: bookworm
Enabled: no

Types: deb
URIs: https://security.example/debian
Suites: bookworm-security
"""
LIST = """deb cdrom:[Debian 12]/ bookworm main
# deb https://comment.example/debian bookworm main
deb-src https://source.example/debian bookworm main
deb [arch=amd64 signed-by=/a/key.gpg] https://three.example/debian bookworm main contrib
deb https://other.example/debian trixie main
"""


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module that keeps its files in a directory of this test."""
    loader = importlib.machinery.SourceFileLoader("setup_servers", str(SCRIPT))
    spec = importlib.util.spec_from_loader("setup_servers", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    module.HOME = tmp_path / ".servers"  # type: ignore[attr-defined]  # it is a script, not a module with types
    return module


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_only_mirrors_of_this_release_that_are_in_use_are_taken(setup: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(LIST)
    (tmp_path / "sources.list.d" / "debian.sources").write_text(SOURCES)
    assert setup.mirrors("bookworm", tmp_path) == [
        "https://three.example/debian",
        "https://one.example/debian",
        "https://two.example/debian",
    ]
    assert setup.mirrors("sid", tmp_path) == []


def test_a_failure_is_one_line_without_the_address_of_a_mirror(setup: ModuleType, tmp_path: Path) -> None:
    says = """echo "Err: https://user:secret@apt.example/x" >&2
echo "E: Failed to fetch https://user:secret@apt.example/x  Could not resolve 'apt.example'" >&2
echo "E: Some index files failed to download" >&2
exit 100"""
    with pytest.raises(setup.Unavailable) as error:
        setup.run(str(program(tmp_path / "apt-get", says)))
    assert str(error.value) == "apt-get: E: Failed to fetch (address)  Could not resolve (address)"


def test_without_any_way_each_server_is_missing_in_one_line_and_the_status_is_0(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(setup, "release", lambda: {"ID": "plan9"})
    monkeypatch.setattr(sys, "executable", "/no/python")
    assert setup.main(["etcd", "consul"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "setup: etcd: neither Debian nor Ubuntu; python: No such file or directory",
        "setup: consul: neither Debian nor Ubuntu",
    ]
    found = json.loads((setup.HOME / "servers.json").read_text())
    assert found["consul"] == {"missing": "neither Debian nor Ubuntu"}


def test_a_container_is_taken_where_a_docker_engine_answers_and_no_program_can_be_had(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin" / "docker", f'echo "$*" >> {tmp_path}/calls')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    monkeypatch.setattr(setup, "release", lambda: {"ID": "plan9"})
    assert setup.main(["consul"]) == 0
    assert list(json.loads((setup.HOME / "servers.json").read_text())["consul"]) == ["docker"]
    assert (tmp_path / "calls").read_text().splitlines() == ["info", f"compose -f {FILE} pull --quiet consul"]


def test_an_etcd_of_the_system_is_used_unless_it_is_too_old(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "release", lambda: {"ID": "plan9"})
    monkeypatch.setattr(sys, "executable", "/no/python")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.defpath}")
    program(tmp_path / "bin" / "etcdctl", "exit 0")
    program(tmp_path / "bin" / "etcd", "echo etcd Version: 3.3.25")
    assert "missing" in setup.look("etcd")
    program(tmp_path / "bin" / "etcd", "echo etcd Version: 3.10.1")
    assert setup.look("etcd")["etcd"] == f"{tmp_path}/bin/etcd"


def test_what_was_unpacked_whole_is_not_fetched_again_and_what_was_not_is(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nothing")
    monkeypatch.setattr(setup, "release", lambda: {"ID": "plan9"})
    program(setup.HOME / "consul" / "usr" / "bin" / "consul", "exit 0")
    assert "missing" in setup.look("consul")
    (setup.HOME / "consul" / "packages").write_text("consul")
    assert setup.look("consul") == {"consul": str(setup.HOME / "consul" / "usr" / "bin" / "consul")}


def test_a_server_whose_address_is_given_is_not_looked_for(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROSTER_TEST_ETCD", "etcd://db1")
    assert setup.main(["etcd"]) == 0
    assert capsys.readouterr().out == ""


def test_an_unknown_server_is_an_error() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "redis"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "setup-servers: no such server: redis; there are etcd, consul, zookeeper, rabbitmq, postgres\n",
    )


def test_a_machine_without_rabbitmq_has_none_and_says_so(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(setup, "DEBIANS_RABBITMQ", str(tmp_path / "rabbitmq-server"))
    assert setup.rabbitmq_programs() is None
    for name in ("rabbitmq-server", "rabbitmqctl", "epmd"):
        program(tmp_path / name, "")
    assert setup.rabbitmq_programs()["rabbitmqctl"] == str(tmp_path / "rabbitmqctl")
