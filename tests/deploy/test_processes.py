"""The team of deploy/compose.yaml without Docker: the image's environment, and its processes as the file has them.

What containers are for is done by hand: the steps of the build stage are carried out in a directory of the test, and each
service gets a directory for a file system, its variables and no others, and its command with paths and ports where they are
here. Names of hosts become addresses. etcd and RabbitMQ are real; volumes, secrets and health checks are those of the file.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from servers.ports import LOOPBACK, Ports
from tests.deploy.composing import DEPLOY, OURS, ROOT, Stage, compose, stages

from servers import Etcd, RabbitMQ, User

_BUILD_WITHIN = 240.0
_HEALTHY_WITHIN = 90.0
_END_WITHIN = 30.0

# Whichever comes first builds the image.
pytestmark = pytest.mark.timeout(400)


class Image:
    """What `docker build` would make: the environment of the build stage, and the stages' variables.

    Args:
        place: stands for the root of the file system.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.stages = stages()

    def build(self) -> None:
        """Carry out the steps of the build stage, one by one."""
        tools = self.place / "tools"
        subprocess.run([sys.executable, "-m", "venv", str(tools)], check=True, timeout=_BUILD_WITHIN)
        work = self.path(self.stages["build"].directory)
        work.mkdir(parents=True)
        environment = {
            **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "HOME", "http", "no_", "SSL"))},
            **self.stages["build"].environment,
            "PATH": f"{tools}/bin:/usr/local/bin:/usr/bin:/bin",
        }  # fmt: skip
        # A layer must not hold the cache; the test may well use it.
        environment.pop("PIP_NO_CACHE_DIR")
        for word, rest in self.stages["build"].steps:
            if word == "COPY":
                *sources, target = rest.split()
                for source in sources:
                    self._copy(ROOT / source, work / target)
            elif word == "RUN":
                done = subprocess.run(
                    ["sh", "-ec", self.mapped(rest)],
                    cwd=work, env=environment, capture_output=True, text=True, timeout=_BUILD_WITHIN, check=False,
                )  # fmt: skip
                assert done.returncode == 0, f"{rest}\n{done.stdout}{done.stderr}"

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        if source.is_dir():
            # As Docker does: what is in it.
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target = (
                target / source.name
                if target.name in ("", ".") or target.is_dir() or not target.suffix
                else target
            )
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)

    def path(self, inside: str) -> Path:
        """Return where a path of the container is here."""
        return self.place / inside.lstrip("/")

    def mapped(self, text: str) -> str:
        """Return a text whose absolute paths of the image are those of here."""
        return re.sub(r"(?<![\w./-])/(?=(?:opt|build|app|var/lib|run/secrets|tmp)\b)", f"{self.place}/", text)


class Service:
    """One service of the file, as a process.

    Args:
        name: the service.
        declared: what the file says of it.
        image: what it is built from.
        place: stands for its root.
        addresses: where each name and port of the network is here: `etcd:2379` -> `127.0.0.1:40123`.
        volumes: where named volumes are.
        secrets: where secrets are.
    """

    def __init__(
        self,
        name: str,
        declared: dict[str, Any],
        image: Image,
        place: Path,
        addresses: dict[str, str],
        volumes: Path,
        secrets: dict[str, Path],
    ) -> None:
        self.name = name
        self._declared = declared
        self._stage: Stage = image.stages[declared["build"]["target"]]
        self._image = image
        self._place = place
        self._addresses = addresses
        self._process: subprocess.Popen[bytes] | None = None
        self.log = place / "log"
        place.mkdir()
        (place / "tmp").mkdir()
        app = self.path(self._stage.directory)
        app.mkdir(parents=True)
        for word, rest in self._stage.steps:
            if word == "COPY" and not rest.startswith("--from="):
                *sources, target = rest.split()
                for source in sources:
                    (app / target).symlink_to(ROOT / source)
        for one in declared.get("volumes", []):
            source, target, *_ = one.split(":")
            inside = self.path(target)
            inside.parent.mkdir(parents=True, exist_ok=True)
            if source.startswith("."):
                inside.symlink_to((DEPLOY / source).resolve())
            else:
                (volumes / source).mkdir(mode=0o700, exist_ok=True)
                inside.symlink_to(volumes / source)
        for one in declared.get("secrets", []):
            inside = self.path(f"/run/secrets/{one}")
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.symlink_to(secrets[one])

    def path(self, inside: str) -> Path:
        return self._place / inside.lstrip("/")

    def mapped(self, text: str) -> str:
        """Return a text of the container as it is meant here."""
        for inside, here in self._addresses.items():
            text = text.replace(inside, here)
        return re.sub(r"(?<![\w./-])/(?=(?:app|var/lib|run/secrets|tmp)\b)", f"{self._place}/", text)

    @property
    def environment(self) -> dict[str, str]:
        """Its variables, and none of this test's own."""
        given = {**self._stage.environment, **self._declared["environment"]}
        found = {name: self.mapped(value) for name, value in given.items()}
        found["PATH"] = f"{self._image.path('/opt/roster/bin')}:/usr/bin:/bin"
        # A name and its port are two variables.
        for host, port in (("ETCD_HOST", "ETCD_PORT"), ("RABBITMQ_HOST", None)):
            key = f"{given[host]}:{given[port] if port else '5672'}"
            address, _, number = self._addresses[key].partition(":")
            found[host] = address if port else self._addresses[key]
            if port:
                found[port] = number
        found["TMPDIR"] = str(self.path("/tmp"))
        return found

    def run(self, line: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a command as `docker compose exec` does."""
        return subprocess.run(
            [self.mapped(word) for word in line], cwd=self.path(self._stage.directory), env=self.environment,
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def start(self) -> None:
        line = [self.mapped(word) for word in self._stage.line(self._declared["command"])]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                line, cwd=self.path(self._stage.directory), env=self.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def healthy(self) -> bool:
        """Make its health check once."""
        check = self._declared["healthcheck"]["test"]
        assert check[0] == "CMD"
        try:
            return self.run(check[1:], timeout=_END_WITHIN).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def wait_healthy(self) -> None:
        until = time.monotonic() + _HEALTHY_WITHIN
        while not self.healthy():
            assert self.alive, f"{self.name} has ended:\n{self.log.read_text()}"
            assert time.monotonic() < until, f"{self.name} is not well:\n{self.log.read_text()}"

    def stop(self) -> int:
        """Send SIGTERM, as Docker does; return the exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(_END_WITHIN)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    made = Image(tmp_path_factory.mktemp("image"))
    made.build()
    return made


def test_the_image_holds_the_command_with_all_its_extras_and_no_pip(image: Image) -> None:
    python = image.path("/opt/roster/bin/python")
    script = (
        "import roster, roster.gateway.app, dbos, psycopg, grpc, aiohttp, kazoo, aiormq, opentelemetry, cel\n"
        "import importlib.util as found\n"
        "print(roster.__file__, found.find_spec('pip'), found.find_spec('pytest'))"
    )
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    place, pip, pytest_ = done.stdout.split()
    assert place.startswith(str(image.path("/opt/roster/lib")))
    assert (pip, pytest_) == ("None", "None")


@pytest.fixture
def team(
    image: Image, tmp_path: Path, start_etcd: Callable[..., Etcd], start_rabbitmq: Callable[..., RabbitMQ]
) -> Iterator[dict[str, Service]]:
    """The services, not started, and the servers that they need: with nothing in them, and no users but the usual one."""
    etcd = start_etcd(fsync=False).start()
    rabbitmq = start_rabbitmq(users={"guest": User("guest")}).start()
    ports = Ports("gateway")
    secrets = tmp_path / "secrets"
    subprocess.run(
        [sys.executable, DEPLOY / "gateway_tokens.py", "--secrets", secrets, "ops=operator"],
        check=True, timeout=_END_WITHIN,
    )  # fmt: skip
    addresses = {
        "etcd:2379": etcd.url.removeprefix("etcd://").rstrip("/"),
        "rabbitmq:5672": f"{LOOPBACK}:{rabbitmq.ports['amqp']}",
        "0.0.0.0:8700": f"{LOOPBACK}:{ports['gateway']}",
        "127.0.0.1:8700": f"{LOOPBACK}:{ports['gateway']}",
    }
    ports.release()
    (tmp_path / "volumes").mkdir()
    declared = compose()["services"]
    with ExitStack() as stack:
        found = {}
        for name in OURS:
            found[name] = Service(
                name, declared[name], image, tmp_path / name, addresses, tmp_path / "volumes",
                {"gateway-tokens": secrets / "gateway-tokens.yaml"},
            )  # fmt: skip
            stack.callback(found[name].close)
        yield found


def test_the_team_comes_up_answers_and_leaves(team: dict[str, Service], tmp_path: Path) -> None:
    for service in team.values():
        assert not service.healthy()  # a check that cannot fail says nothing
        service.start()
    for service in team.values():
        service.wait_healthy()
    gateway = team["gateway"]
    listed = gateway.run(["roster", "get", "nodes", "-A", "-o", "name"], timeout=60)
    assert listed.stdout.split() == ["node/orchestrator-001", "node/writer-001", "node/writer-002"], (
        listed.stderr
    )

    # From outside, over HTTP, through the gateway, over the bus, to an agent and back.
    token = (tmp_path / "secrets" / "ops.token").read_text().strip()
    base = "http://" + gateway.mapped("127.0.0.1:8700")
    answer = asked(
        f"{base}/api/v1/call", token, {"capability": "edit_text", "params": {"text": "many   spaces"}}
    )
    assert answer["result"] == {"edited_text": "Many spaces."}
    assert answer["node"] in ("ai-team/writer-001", "ai-team/writer-002")
    metrics = urllib.request.Request(f"{base}/metrics", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(metrics, timeout=30) as response:
        assert b'roster_calls_total{capability="edit_text",outcome="ok"} 1.0' in response.read()

    # The call of docs/deploy.md, from inside a container.
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"exec gateway (roster call .*)$", page, re.MULTILINE)
    called = gateway.run(shlex.split(shown), timeout=60)
    assert json.loads(called.stdout) == {"edited_text": "Many spaces."}, called.stderr

    # A run that is begun at the gateway is carried out by whoever has the database: the volume is one.
    run = asked(f"{base}/api/v1/runs", token, {"card": CARD, "inputs": {"text": "one   two"}})
    until = time.monotonic() + _HEALTHY_WITHIN
    while (record := asked(f"{base}/api/v1/runs/{run['id']}", token))["state"] not in ("succeeded", "failed"):
        assert time.monotonic() < until, record
        time.sleep(0.1)
    assert (record["state"], record["result"]["edited_text"]) == ("succeeded", "One two."), record
    seen = team["orchestrator"].run(["roster", "get", "runs", "-o", "name"], timeout=60)
    assert run["id"] in seen.stdout, seen.stderr

    # `docker compose stop`: everybody leaves in good order, and nobody is left in the registry.
    for name in ("agent-writer-001", "agent-writer-002", "orchestrator"):
        assert team[name].stop() == 0, team[name].log.read_text()
        assert not team[name].healthy()
    assert gateway.run(["roster", "get", "nodes", "-A", "-o", "name"], timeout=60).stdout == ""
    assert gateway.stop() == 0, gateway.log.read_text()
    for service in team.values():
        for line in service.log.read_text().splitlines():
            assert json.loads(line)["level"].lower() in ("debug", "info", "warning"), line


CARD = """\
name: tidy
steps:
  - id: edit
    action: edit_text
    params: {text: "${input.text}"}
    output: tidied
  - id: done
    type: complete
    result: ${tidied}
"""


def asked(url: str, token: str, body: Any = None) -> Any:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as response:
        return json.loads(response.read())
