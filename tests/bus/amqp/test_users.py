"""One user for each node, as `deploy/rabbitmq_users.py` makes them: who may do what, and that no permission is idle."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from servers.programs import programs
from tests.bus.helpers import Child, ask, echo, soon, until
from tests.docs.markdown import ROOT, Document
from tests.engines import not_here

from roster import MindBus, NodePassport, Orchestrator
from roster.bus import Message
from roster.bus.amqp import AmqpBus
from roster.errors import BusUnavailableError, CallTimeoutError, Code, DeliveryError
from roster.node.presence import bindings_of
from servers import RabbitMQ, ServerMissingError

SCRIPT = ROOT / "deploy" / "rabbitmq_users.py"
WRITER, METRICS = "ai-team.writer-001", "ai-team.metrics-001"
QUEUE = "agent.writer.001"


class Team:
    """A broker with the users of the page, and their passwords."""

    def __init__(self, broker: RabbitMQ, secrets: Path) -> None:
        self.broker = broker
        self.secrets = secrets

    def url(self, user: str) -> str:
        """The URL for a user."""
        secret = (self.secrets / user).read_text().strip()
        return f"amqp://{user}:{secret}@127.0.0.1:{self.broker.ports['amqp']}"


def environment(broker: RabbitMQ) -> dict[str, str]:
    """What rabbitmqctl needs to find the broker."""
    path = f"{Path(programs('rabbitmq')['rabbitmqctl']).parent}:{os.environ['PATH']}"
    return {**os.environ, **broker.environment(), "PATH": path}


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    """A broker, and the command of docs/bus.md run on it as it is printed."""
    (block,) = (block for block in Document.read("docs/bus.md").blocks if "rabbitmq_users" in block.text)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="roster-users-")))
        try:
            broker = stack.enter_context(RabbitMQ(directory / "broker"))
        except ServerMissingError as error:
            not_here("rabbitmq", str(error))
        broker.settle()
        commands = re.sub(r"^\$ ", "", block.text, flags=re.MULTILINE)
        commands = re.sub(r"(?<= )secrets\b", f"{directory}/secrets", commands)
        done = subprocess.run(
            ["sh", "-ec", commands.replace(".venv/bin/python", sys.executable)],
            cwd=ROOT,
            env=environment(broker),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield Team(broker, directory / "secrets")


async def forbidden(work: Any, what: str) -> None:
    """See that something is refused in one line that names it."""
    with pytest.raises(BusUnavailableError, match="the broker forbids it") as caught:
        await soon(work)
    text = str(caught.value)
    assert what in text
    assert "\n" not in text
    assert (caught.value.code, caught.value.retryable) == (Code.PERMISSION_DENIED, False)


# --- nodes ----------------------------------------------------------------------------------------------------


async def test_a_nodes_user_serves_its_own_queue_and_hears_what_is_meant_for_it(team: Team) -> None:
    heard: list[str] = []
    async with AmqpBus(team.url(WRITER)) as bus, AmqpBus(team.url("caller")) as caller:

        def take(delivery: Any) -> None:
            heard.append(delivery.message.subject)
            echo(delivery)

        consumer = await soon(bus.serve(QUEUE, take, bindings=KEYS))
        assert await ask(caller, QUEUE, n=1) == {"n": 1}
        async with MindBus.connect(team.url("chief")) as chief:
            assert await chief.publish_control("all", "all", "pause") == 1
            await until(lambda: "pause" in heard)
        await consumer.close()


async def test_it_can_neither_serve_nor_declare_another_nodes_queue(team: Team) -> None:
    async with AmqpBus(team.url(WRITER)) as bus:
        for queue in ("agent.ai-team.metrics-001", f"{QUEUE}.other", "agentxwriterx001", "new"):
            await forbidden(bus.serve(queue, echo), f"serve the queue {queue!r}")


async def test_it_cannot_read_another_nodes_queue(
    team: Team, foreign: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with AmqpBus(team.broker.url) as other, AmqpBus(team.url(WRITER)) as bus:
        await soon(other.serve("agent.ai-team.metrics-001", echo))
        channel = await foreign(team.url(WRITER))
        with pytest.raises(Exception, match=r"ACCESS_REFUSED.*agent\.ai-team\.metrics-001"):
            await channel.consume("agent.ai-team.metrics-001", lambda delivered: None, 5.0)
        # It can send there, by the default exchange, but not stand by.
        assert await ask(bus, "agent.ai-team.metrics-001", n=1) == {"n": 1}
        assert "may not read the queue 'agent.ai-team.metrics-001'" in caplog.text


async def test_it_cannot_bind_its_queue_to_what_is_meant_for_others(team: Team) -> None:
    async with AmqpBus(team.url(WRITER)) as bus:
        for key in ("cmd.#", "#", "cmd.writer.x", "evt.#"):
            await forbidden(bus.serve(QUEUE, echo, bindings=[key]), f"serve the queue '{QUEUE}'")
        await forbidden(bus.subscribe(["evt.#"], lambda key, message: None), "subscribe")


async def test_it_publishes_nothing(team: Team) -> None:
    async with MindBus.connect(team.url(WRITER)) as mindbus:
        for work in (mindbus.publish_event("a", "b"), mindbus.publish_control("all", "x", "stop")):
            with pytest.raises(BusUnavailableError):
                await soon(work)


async def test_what_is_ill_formed_is_buried_though_it_may_not_declare(
    team: Team, foreign: Callable[..., Any]
) -> None:
    async with AmqpBus(team.url(WRITER)) as bus, AmqpBus(team.url("chief")) as chief:
        consumer = await soon(bus.serve(QUEUE, echo))
        await bus.bury(Message.command("write_article", {"topic": "bees"}), "it kills whoever runs it")
        (letter,) = await chief.dead_letters()
        assert (letter.message.action, letter.reason) == ("write_article", "it kills whoever runs it")
        await consumer.close()


# --- callers and watchers -------------------------------------------------------------------------------------

_AGENT = """
import asyncio, os, sys
from roster import Node
from roster.node import current
node = Node(
    {"apiVersion": "ai-team.dev/v1", "kind": "NodePassport",
     "metadata": {"name": sys.argv[1], "namespace": "ai-team"},
     "spec": {"type": "agent", "version": "1.0.0", "capabilities": [{"name": "work"}],
              "communication": {"mindbus_queue": sys.argv[2]}, "resources": {"max_concurrent_tasks": 2}}},
    registry_url=sys.argv[3], bus_url=os.environ["BUS"])

@node.capability("work")
async def work(die: bool) -> str:
    if die and "attempt" not in current().message.extensions:
        os._exit(9)
    return sys.argv[1]

async def main():
    async with node:
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
asyncio.run(main())
"""


async def test_calls_fail_over_at_once_when_a_node_dies(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = f"sqlite:///{tmp_path}/registry.db"
    with ExitStack() as stack:
        for user, queue in ((WRITER, QUEUE), (METRICS, "agent.ai-team.metrics-001")):
            monkeypatch.setenv("BUS", team.url(user))
            child = Child(_AGENT, user.removeprefix("ai-team."), queue, registry)
            stack.callback(child.end)
            assert await child.line() == "ready"
        async with Orchestrator.connect(registry, team.url("caller")) as orchestrator:
            assert await soon(orchestrator.call("work", {"die": False})) in ("writer-001", "metrics-001")
            # Its lease would last for 30 s: that it is dead the stand-by says.
            answer = await soon(orchestrator.ask("work", {"die": True}))
            first, second = answer.attempts
            assert {first.node, second.node} == {"ai-team/writer-001", "ai-team/metrics-001"}
            assert first.duration < 5


async def test_an_orchestrator_serves_publishes_and_hears_nothing(team: Team) -> None:
    async with AmqpBus(team.url("caller")) as bus:
        await forbidden(bus.serve(QUEUE, echo), "serve the queue")
        await forbidden(bus.subscribe(["evt.#"], lambda key, message: None), "subscribe")
        with pytest.raises(BusUnavailableError):
            await soon(bus.publish("evt.a.b", Message.event("a.b")))
        await forbidden(bus.dead_letters(), "read the dead letters")


async def test_an_observer_hears_events_and_does_nothing_else(team: Team) -> None:
    async with MindBus.connect(team.url("watcher")) as watcher, MindBus.connect(team.url("chief")) as chief:
        async with watcher.subscribe("evt.#", "ctl.#") as events:
            await chief.publish_event("article", "written", {"n": 1})
            assert (await soon(anext(events))).data == {"n": 1}
        await forbidden(watcher.bus.subscribe(["cmd.#"], lambda key, message: None), "subscribe")
        await forbidden(watcher.bus.serve(QUEUE, echo), "serve the queue")
        for work in (watcher.publish_event("a", "b"), watcher.send_command(QUEUE, "work")):
            with pytest.raises(BusUnavailableError):
                await soon(work)


# --- that nothing can be left out -----------------------------------------------------------------------------


def script() -> Any:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("rabbitmq_users", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def less(user: Any, field: str) -> list[Any]:
    """Return the user without each of the names that a permission lists, one at a time."""
    listed = re.fullmatch(r"\^\((.*)\)\$", getattr(user, field))
    if listed is None:
        return []
    names = listed[1].split("|")
    return [
        replace(
            user,
            name=f"{user.name}.{field}{at}",
            **{field: f"^({'|'.join([*names[:at], *names[at + 1 :]])})$"},
        )
        for at in range(len(names))
    ]


Probe = Callable[[Team, str], Awaitable[None]]
PASSPORT = NodePassport.load(ROOT / "examples" / "passports" / "writer-001.yaml")
KEYS = bindings_of(PASSPORT)


async def serves(team: Team, user: str) -> None:
    """What a node does."""
    async with AmqpBus(team.url(user)) as bus, AmqpBus(team.url("caller")) as caller:
        consumer = await soon(bus.serve(QUEUE, echo, bindings=KEYS))
        assert await soon(ask(caller, QUEUE, n=1), 2) == {"n": 1}
        await consumer.close()


async def calls(team: Team, user: str) -> None:
    """What an orchestrator does."""
    async with AmqpBus(team.broker.url) as node, AmqpBus(team.url(user)) as bus:
        await soon(node.serve(QUEUE, echo))
        assert await soon(ask(bus, QUEUE, n=1), 2) == {"n": 1}
        assert bus._sender.stand_bys.queues == {QUEUE}


async def observes(team: Team, user: str) -> None:
    """What an observer does."""
    async with AmqpBus(team.url(user)) as bus, AmqpBus(team.broker.url) as other:
        seen: list[str] = []
        await soon(bus.subscribe(["evt.#", "ctl.#"], lambda key, message: seen.append(key)))
        await other.publish("evt.a.b", Message.event("a.b"))
        await until(lambda: seen == ["evt.a.b"], 2)


async def operates(team: Team, user: str) -> None:
    """What an operator does."""
    await observes(team, user)
    async with MindBus.connect(team.url(user)) as mindbus, AmqpBus(team.broker.url) as node:
        await soon(node.serve(QUEUE, echo))
        await soon(mindbus.publish_control("all", "x", "pause"))
        assert await soon(mindbus.send_control(QUEUE, "pause", timeout=2)) == {}
        await soon(mindbus.bus.dead_letters())


async def does(probe: Probe, team: Team, user: str) -> bool:
    """Tell whether a user can do all that its role does."""
    try:
        await probe(team, user)
    except (BusUnavailableError, DeliveryError, CallTimeoutError, TimeoutError, AssertionError):
        return False
    return True


async def test_no_permission_is_idle(team: Team, tmp_path: Path) -> None:
    users = script()
    roles: list[tuple[Any, Probe]] = [
        (users.node(PASSPORT, events=False), serves),
        (users.orchestrator("caller", [QUEUE]), calls),
        (users.observer("watcher"), observes),
        (users.operator("chief"), operates),
    ]
    fields = ("configure", "write", "read", "hears")
    reduced = {role.name: [one for field in fields for one in less(role, field)] for role, _ in roles}
    assert {name: len(each) for name, each in reduced.items()} == {
        WRITER: 12,
        "caller": 2,
        "watcher": 4,
        "chief": 7,
    }
    everybody = [one for each in reduced.values() for one in each]
    file = tmp_path / "definitions.json"
    file.write_text(json.dumps(users.definitions(everybody, "/", team.secrets)))
    team.broker.ctl("import_definitions", str(file))
    for role, probe in roles:
        assert await does(probe, team, role.name), role
        for one in reduced[role.name]:
            assert not await does(probe, team, one.name), f"{one} needs no more"


# --- the script -------------------------------------------------------------


def made(*words: str, secrets: Path) -> Any:
    """Return the definitions that the script makes."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--secrets", secrets, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return json.loads((secrets / "definitions.json").read_text())


def test_run_again_it_keeps_the_passwords_and_tells_nobody(tmp_path: Path) -> None:
    words = ("--orchestrator", "caller", "examples/passports/writer-001.yaml")
    secrets = tmp_path / "secrets"
    first = made(*words, secrets=secrets)
    kept = {name: (secrets / name).read_text() for name in ("caller", WRITER)}
    assert {file.name for file in secrets.iterdir()} == {*kept, "definitions.json"}
    assert all((secrets / name).stat().st_mode & 0o777 == 0o600 for name in kept)
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert not any(secret.strip() in json.dumps(first) for secret in kept.values())
    second = made(*words, secrets=secrets)
    assert {name: (secrets / name).read_text() for name in kept} == kept
    assert second["permissions"] == first["permissions"]


def test_a_queue_with_any_name_is_that_one_alone(tmp_path: Path) -> None:
    passport = tmp_path / "odd.json"
    document = {
        "apiVersion": "ai-team.dev/v1",
        "kind": "NodePassport",
        "metadata": {"name": "odd"},
        "spec": {
            "type": "agent",
            "version": "1.0.0",
            "capabilities": [{"name": "work"}],
            "communication": {"mindbus_queue": "a.b|.*$ (x)[y]"},
        },
    }
    passport.write_text(json.dumps(document))
    (permission,) = made(str(passport), secrets=tmp_path / "secrets")["permissions"]
    assert re.search(permission["read"], "a.b|.*$ (x)[y]")
    assert re.search(permission["read"], "a.b|.*$ (x)[y]/control")
    for other in ("a.b", "axb|.*$ (x)[y]", "anything", "a.b|.*$ (x)[y]/control/x"):
        assert not re.search(permission["read"], other)


def test_two_users_of_one_name_are_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--secrets", tmp_path, "--orchestrator", "a", "--observer", "a"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "rabbitmq_users.py: more than one user is called a\n"
    assert list(tmp_path.iterdir()) == []
