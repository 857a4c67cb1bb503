"""`roster.sync`: the same names for code that is not async, from any thread, over one loop."""

from __future__ import annotations

import gc
import inspect
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import passport

import roster
from roster import sync
from roster._clock import boottime
from roster._portal import own_portal

Urls = tuple[str, str]


@contextmanager
def writer(
    urls: Urls, write: Callable[..., Any], name: str = "writer-001", **spec: Any
) -> Iterator[sync.Node]:
    """A node that serves `write` in the background."""
    node = sync.Node(passport(name, "write", **spec), registry_url=urls[0], bus_url=urls[1])
    node.capability("write")(write)
    with node:
        yield node


def echo(topic: str) -> dict[str, str]:
    return {"topic": topic}


def wait_for(condition: Callable[[], Any], deadline: float = 10.0) -> None:
    until = boottime() + deadline
    step = threading.Event()
    while not condition():
        assert boottime() < until, "it did not come true in time"
        step.wait(0.005)


def script(code: str, state: Path, *, deadline: float = 20.0) -> subprocess.CompletedProcess[str]:
    """Run a program with a private state directory; it must end by itself."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={"ROSTER_STATE_DIR": str(state), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=deadline,
        check=False,
    )


# -- the names --------------------------------------------------------------------------------------------------------


def test_every_public_name_of_the_package_is_here_too() -> None:
    assert set(roster.__all__) - {"__version__"} <= set(sync.__all__)
    for name in sync.__all__:
        assert hasattr(sync, name)


# What has no place in blocking code: hooks and handles of the loop itself, and what a class shows its own package only.
_ASYNC_ONLY = {
    "Registry": {"store", "informer"},
    "Registration": {"begin", "lose", "seq", "ttl", "lost", "cordoned", "error"},
    "MindBus": {"bus"},
    "Orchestrator": {"choose", "node", "nodes_with", "prepare", "refuse", "room", "rows", "source_here"},
    "Node": {"serve"},
}


@pytest.mark.parametrize("name", sorted(_ASYNC_ONLY))
def test_every_method_of_a_class_is_on_its_blocking_twin(name: str) -> None:
    there, here = getattr(roster, name), getattr(sync, name)
    public = {attribute for attribute in vars(there) if not attribute.startswith("_")}
    assert public - set(dir(here)) <= _ASYNC_ONLY[name]


@pytest.mark.parametrize("name", sorted(_ASYNC_ONLY))
def test_a_method_takes_what_its_async_twin_takes(name: str) -> None:
    there, here = getattr(roster, name), getattr(sync, name)
    compared = 0
    for attribute, method in vars(here).items():
        if attribute.startswith("_") or not inspect.isfunction(method):
            continue
        assert not inspect.iscoroutinefunction(method)
        assert inspect.getdoc(method)
        assert list(inspect.signature(method).parameters) == list(
            inspect.signature(getattr(there, attribute)).parameters
        ), attribute
        compared += 1
    assert compared >= 4


def test_what_needs_no_loop_is_the_very_same_object() -> None:
    for name in ("NodePassport", "NoCapableNodesError", "select_best_node", "Context", "NodeRecord"):
        assert getattr(sync, name) is getattr(roster, name)


# -- calling ----------------------------------------------------------------------------------------------------------


def test_a_call_brings_the_result(urls: Urls) -> None:
    with writer(urls, echo), sync.Orchestrator.connect(*urls) as orchestrator:
        assert orchestrator.call("write", {"topic": "bees"}, timeout=10) == {"topic": "bees"}
        answer = orchestrator.ask("write", {"topic": "bees"})
        assert answer.node == "default/writer-001"
        assert [one.node for one in orchestrator.explain("write")] == ["default/writer-001"]
        assert orchestrator.pick("write").name == "writer-001"


def test_a_handler_is_an_async_function_too(memory_urls: Urls) -> None:
    async def write(topic: str) -> str:
        return topic.upper()

    with writer(memory_urls, write), sync.Orchestrator.connect(*memory_urls) as orchestrator:
        assert orchestrator.call("write", {"topic": "bees"}) == "BEES"


def test_everybody_is_asked_at_once(memory_urls: Urls) -> None:
    with (
        writer(memory_urls, echo),
        writer(memory_urls, echo, "writer-002"),
        sync.Orchestrator.connect(*memory_urls) as orchestrator,
    ):
        orchestrator.start()
        wait_for(lambda: len(orchestrator.registry.find_by_capability("write")) == 2)
        answers = orchestrator.call_all("write", {"topic": "bees"})
        assert [(one.node, one.result) for one in answers] == [
            ("default/writer-001", {"topic": "bees"}),
            ("default/writer-002", {"topic": "bees"}),
        ]


def test_progress_is_streamed_and_then_the_result(memory_urls: Urls) -> None:
    def write(topic: str, context: sync.Context) -> str:
        context.progress(step=1)
        context.progress(step=2)
        return topic

    with writer(memory_urls, write), sync.Orchestrator.connect(*memory_urls) as orchestrator:
        events = [(event.type, event.data) for event in orchestrator.stream("write", {"topic": "bees"})]
    assert events == [("progress", {"step": 1}), ("progress", {"step": 2}), ("result", "bees")]


def test_leaving_a_stream_early_takes_the_command_back(memory_urls: Urls) -> None:
    stopped = threading.Event()

    def write(topic: str, context: sync.Context) -> None:
        context.progress(step=1)
        wait_for(lambda: context.cancelled)
        stopped.set()

    with writer(memory_urls, write), sync.Orchestrator.connect(*memory_urls) as orchestrator:
        for event in orchestrator.stream("write", {"topic": "bees"}):
            assert event.type == "progress"
            break
        gc.collect()
        assert stopped.wait(10)


def test_errors_are_those_of_the_package(memory_urls: Urls) -> None:
    def write(topic: str) -> None:
        raise ValueError("no paper")

    with sync.Orchestrator.connect(*memory_urls) as orchestrator:
        with pytest.raises(roster.NoCapableNodesError):
            orchestrator.call("write", {"topic": "bees"})
        with writer(memory_urls, write):
            wait_for(lambda: orchestrator.registry.find_by_capability("write"))
            with pytest.raises(roster.RemoteError, match="no paper"):
                orchestrator.call("write", {"topic": "bees"})
            with pytest.raises(roster.InvalidParamsError):
                orchestrator.call("write", {"subject": "bees"})


def test_a_call_of_a_handler_belongs_to_its_command(memory_urls: Urls) -> None:
    """The deadline is inherited, and a node that waits for the call is not asked to serve it."""
    with sync.Orchestrator.connect(*memory_urls) as orchestrator:

        def write(topic: str) -> None:
            orchestrator.call("write", {"topic": topic}, timeout=3600)

        with writer(memory_urls, write):
            began = boottime()
            with pytest.raises(roster.CallError):
                orchestrator.call("write", {"topic": "bees"}, timeout=2)
            assert boottime() - began < 5


# -- registry and bus -------------------------------------------------------------------------------------------------


def test_a_registry_without_with_works_until_it_is_closed(urls: Urls) -> None:
    registry = sync.Registry.connect(urls[0])
    registration = registry.register(passport("writer-001", "write", labels={"role": "writer"}))
    assert registration.key == "default/writer-001"
    assert registration.state == "ready"
    assert registration.passport.name == "writer-001"
    (found,) = registry.find_by_capability("write")
    assert found.uid == registration.uid
    assert registry.get("writer-001").labels == {"role": "writer"}
    assert [one.name for one in registry.capabilities()] == ["write"]
    assert registry.find(selector="role=editor") == []
    assert registry.quarantined == {}
    assert registry.mismatches() == []
    assert registry.staleness == 0.0
    registration.update(labels={"role": "editor"})
    wait_for(lambda: registry.find(selector="role=editor"))
    registration.drain()
    wait_for(lambda: registry.get("writer-001").state == "draining")
    registration.deregister()
    wait_for(lambda: registry.find() == [])
    with pytest.raises(roster.NodeNotFoundError):
        registry.get("writer-001")
    registry.close()
    with pytest.raises(roster.RosterError, match="closed"):
        registry.find()


def test_a_registration_ends_with_its_block(memory_urls: Urls) -> None:
    with sync.Registry.connect(memory_urls[0]) as registry:
        with registry.register(passport("writer-001", "write")) as registration:
            registration.report(2)
            registration.set_condition("Warm", "True")
            registration.withdraw("write")
            wait_for(lambda: not registry.find_by_capability("write"))
            registration.restore("write")
            wait_for(lambda: registry.find_by_capability("write"))
        wait_for(lambda: not registry.find())
        registration.wait_ended()


def test_nodes_are_drained_deleted_and_pruned(memory_urls: Urls) -> None:
    with sync.Registry.connect(memory_urls[0]) as registry, registry.register(passport("a", "write")):
        registry.synced()
        registry.drain("a")
        wait_for(lambda: registry.get("a").state == "draining")
        registry.undrain("a")
        wait_for(lambda: registry.get("a").state == "ready")
        with pytest.raises(roster.RosterError, match="alive"):
            registry.delete("a")
        assert registry.prune() == []


def test_a_watch_tells_who_is_there_and_who_comes(memory_urls: Urls) -> None:
    with sync.Registry.connect(memory_urls[0]) as registry, registry.register(passport("a", "write")):
        events = registry.watch()
        assert (next(events).type, registry.get("a").name) == ("added", "a")
        with registry.register(passport("b", "write")):
            assert next(events).name == "b"
        while next(events).type != "removed":
            pass
        events.close()
        with pytest.raises(roster.RosterError, match=r"selector|cannot"):
            registry.watch(selector="((")


def test_a_watch_ends_when_its_registry_is_closed(memory_urls: Urls) -> None:
    registry = sync.Registry.connect(memory_urls[0])
    with ThreadPoolExecutor() as pool:
        watching = pool.submit(list, registry.watch())
        registry.synced()
        registry.close()
        assert watching.result(10) == []


def test_a_command_by_hand_with_progress_and_result(memory_urls: Urls) -> None:
    def write(topic: str, context: sync.Context) -> str:
        context.progress(step=1)
        return topic

    with writer(memory_urls, write) as node, sync.MindBus.connect(memory_urls[1]) as mindbus:
        answer = mindbus.send_command(
            queue=node.passport.mindbus_queue, action="write", params={"topic": "bees"}
        )
        assert [message.data for message in answer.progress()] == [{"step": 1}]
        assert answer.result(timeout=10) == "bees"
        assert answer.started
        assert mindbus.send_control(node.passport.mindbus_queue, "pause")["node"] == "default/writer-001"


def test_a_command_by_hand_is_taken_back(memory_urls: Urls) -> None:
    release = threading.Event()

    def write(topic: str) -> None:
        release.wait(20)

    with writer(memory_urls, write) as node, sync.MindBus.connect(memory_urls[1]) as mindbus:
        answer = mindbus.send_command(
            queue=node.passport.mindbus_queue, action="write", params={"topic": "bees"}
        )
        with pytest.raises(TimeoutError):
            answer.result(timeout=0.01)
        second = mindbus.send_command(
            queue=node.passport.mindbus_queue, action="write", params={"topic": "bees"}
        )
        second.cancel()
        with pytest.raises(roster.CallCancelledError):
            second.result(timeout=10)
        release.set()


def test_events_are_heard_by_whoever_subscribed(memory_urls: Urls) -> None:
    with sync.MindBus.connect(memory_urls[1]) as mindbus, mindbus.subscribe("evt.#") as events:
        assert mindbus.publish_event("articles", "written", {"topic": "bees"}) >= 1
        heard = next(iter(events))
        assert heard.data == {"topic": "bees"}
        assert events.dropped == 0
        assert mindbus.url.startswith("memory://")
        events.close()
        assert list(events) == []


# -- a node -----------------------------------------------------------------------------------------------------------


def test_a_node_serves_in_the_background_of_its_block(urls: Urls) -> None:
    with sync.Orchestrator.connect(*urls) as orchestrator:
        with writer(urls, echo) as node:
            assert (node.key, node.state, node.active_tasks) == ("default/writer-001", "ready", 0)
            node.set_condition("Warm", "True", "Loaded")
            node.update(labels={"tier": "a"})
            wait_for(lambda: orchestrator.registry.find(selector="tier=a"))
            assert node.occupy(2).active == 2
            with pytest.raises(roster.RosterError, match="runs already"):
                node.connect_to(*urls)
            assert node.passport.labels == {"tier": "a"}
            assert node.uid == orchestrator.registry.get("writer-001").uid
        assert node.state == "offline"
        assert node.stop() is True
        wait_for(lambda: not orchestrator.registry.find())


def test_a_node_serves_a_signal_of_its_own(memory_urls: Urls) -> None:
    node = sync.Node(passport("writer-001", "write"), registry_url=memory_urls[0], bus_url=memory_urls[1])
    node.capability("write")(echo)

    @node.signal("config")
    def config(data: dict[str, Any]) -> dict[str, Any]:
        return {"heard": data["level"]}

    with node, sync.MindBus.connect(memory_urls[1]) as mindbus:
        assert mindbus.send_control(node.passport.mindbus_queue, "config", {"level": 3}) == {"heard": 3}


def test_a_capability_whose_check_fails_is_withdrawn(memory_urls: Urls) -> None:
    node = sync.Node(
        passport("writer-001", "write", "edit"), registry_url=memory_urls[0], bus_url=memory_urls[1]
    )
    node.capability("write")(echo)
    node.capability("edit")(echo)
    node.check("edit", every=60)(lambda: False)
    with node, sync.Registry.connect(memory_urls[0]) as registry:
        assert registry.find_by_capability("write")
        assert registry.find_by_capability("edit") == []


def test_a_handler_without_its_capability_is_refused_at_the_start(memory_urls: Urls) -> None:
    node = sync.Node(passport("writer-001", "write"), registry_url=memory_urls[0], bus_url=memory_urls[1])
    with pytest.raises(roster.RosterError, match="nothing serves it"), node:
        raise AssertionError("it must not start")


def test_a_node_is_loaded_from_its_file_and_runs_until_sigterm(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(
        sync.NodePassport.from_dict(passport("writer-001", "write")).to_json().decode()
    )
    agent = f"""
    from roster.sync import Node, Orchestrator
    import threading
    node = Node.load({str(tmp_path / "p.json")!r})
    @node.capability("write")
    def write(topic: str) -> str:
        threading.Timer(0.05, node.shutdown).start()
        return topic
    def call():
        with Orchestrator.connect() as orchestrator:
            while not orchestrator.registry.find_by_capability("write"):
                pass
            print(orchestrator.call("write", {{"topic": "bees"}}))
    threading.Thread(target=call).start()
    node.run()
    """
    ended = script(agent, tmp_path / "state")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "bees\n", "")


# -- threads, forks, the end ------------------------------------------------------------------------------------------


def test_many_threads_share_one_orchestrator(memory_urls: Urls) -> None:
    with (
        writer(memory_urls, echo, at_once=8),
        sync.Orchestrator.connect(*memory_urls) as orchestrator,
        ThreadPoolExecutor(8) as pool,
    ):
        topics = [f"topic {number}" for number in range(80)]
        results = list(pool.map(lambda topic: orchestrator.call("write", {"topic": topic}), topics))
    assert [one["topic"] for one in results] == topics


def test_the_loop_is_the_same_for_all_threads() -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len({id(one) for one in pool.map(lambda _: own_portal(), range(64))}) == 1


def test_a_callback_that_calls_back_is_told_instead_of_hanging(memory_urls: Urls) -> None:
    said: list[Exception] = []

    def write(topic: str, context: sync.Context) -> str:
        context.progress(step=1)
        return topic

    with writer(memory_urls, write), sync.Orchestrator.connect(*memory_urls) as orchestrator:

        def on_progress(node: object, data: object) -> None:
            try:
                orchestrator.pick("write")
            except roster.RosterError as error:
                said.append(error)

        orchestrator.call("write", {"topic": "bees"}, on_progress=on_progress)
    assert "another thread" in str(said[0])


def test_a_forked_child_is_told_to_connect_anew_and_can(tmp_path: Path) -> None:
    ended = script(
        """
        import os, warnings
        from roster.sync import Registry, RosterError
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork beside a thread
        parents = Registry.connect()
        with parents.register({"apiVersion": "ai-team.dev/v1", "kind": "NodePassport",
                               "metadata": {"name": "a"}, "spec": {}}):
            child = os.fork()
            if child == 0:
                try:
                    parents.find()
                except RosterError as error:
                    print("child:", error, flush=True)
                with Registry.connect() as own:
                    print("child finds", [node.name for node in own.find()], flush=True)
                parents.close()  # is the parent's: nothing happens to it
                os._exit(7)
            print("child ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            print("parent finds", [(node.name, node.state) for node in parents.find()])
        parents.close()
        """,
        tmp_path,
    )
    assert ended.stderr == ""
    lines = ended.stdout.splitlines()
    assert "before a fork: connect again" in lines[0]
    assert lines[1:] == ["child finds ['a']", "child ended with 7", "parent finds [('a', 'ready')]"]
    assert ended.returncode == 0


def test_a_program_that_closes_nothing_ends_at_once_and_in_good_order(tmp_path: Path) -> None:
    began = boottime()
    ended = script(
        """
        from roster.sync import MindBus, Node, Orchestrator, Registry
        document = {"apiVersion": "ai-team.dev/v1", "kind": "NodePassport",
                    "metadata": {"name": "a"}, "spec": {"capabilities": [{"name": "write"}]}}
        registry = Registry.connect()
        registration = registry.register(document)
        events = registry.watch()
        print(next(events).name)
        orchestrator, mindbus = Orchestrator.connect(), MindBus.connect()
        node = Node({**document, "metadata": {"name": "b"}})
        node.capability("write")(lambda: {"done": True})
        node.start()
        print(mindbus.send_command(queue=node.passport.mindbus_queue, action="write").result(10))
        """,
        tmp_path,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "a\n{'done': True}\n", "")
    assert boottime() - began < 10
    with sync.Registry.connect(f"sqlite://{tmp_path}/registry.db") as registry:
        assert registry.find() == []  # both have left: neither is `offline`


def test_a_program_that_dies_of_an_error_ends_too(tmp_path: Path) -> None:
    ended = script(
        """
        from roster.sync import Orchestrator
        orchestrator = Orchestrator.connect()
        orchestrator.call("paint", {})
        """,
        tmp_path,
    )
    assert ended.returncode == 1
    assert "NoCapableNodesError" in ended.stderr.splitlines()[-1]


def test_type_checkers_see_the_arguments_and_the_results(tmp_path: Path) -> None:
    """What mypy says of a program that uses it wrongly and rightly."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            from roster.sync import MindBus, Orchestrator, Registry
            registry = Registry.connect()
            reveal_type(registry.find_by_capability("write"))
            reveal_type(registry.register("passport.yaml", ttl=3))
            reveal_type(MindBus.connect().send_command(queue="q", action="write"))
            Orchestrator.connect().call("write", {}, timout=3)
            """
        )
    )
    root = Path(__file__).parents[1]
    said = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--no-error-summary",
            "--cache-dir",
            str(root / ".mypy_cache"),
            str(program),
        ],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert 'Revealed type is "list[roster.registry.record.NodeRecord]"' in said
    assert 'Revealed type is "roster.sync.Registration"' in said
    assert 'Revealed type is "roster.sync.Answer"' in said
    assert 'Unexpected keyword argument "timout"' in said
    assert said.count("error:") == 1


# -- runs of process cards --------------------------------------------------------------------------------------------


def test_a_card_is_run_and_its_runs_are_looked_at(memory_urls: Urls, tmp_path: Path) -> None:
    card = {
        "name": "card",
        "steps": [
            {"id": "write", "action": "write", "params": {"topic": "${input.topic}"}, "output": "text"},
            {"id": "review", "type": "human_checkpoint", "message": "Good?", "when": "${input.ask}"},
            {"type": "complete", "result": "${text}"},
        ],
    }
    url = f"sqlite://{tmp_path}/runs.sqlite"
    with (
        writer(memory_urls, echo),
        sync.Orchestrator.connect(*memory_urls, runs_url=url) as orchestrator,
    ):
        record = orchestrator.run(card, {"topic": "bees", "ask": False}, run_id="one")
        assert (record.state, record.result) == ("succeeded", {"topic": "bees"})

        runs = orchestrator.runs
        assert runs.start(card, {"topic": "bees", "ask": True}, run_id="two") == "two"
        for seen in runs.watch("two"):
            if any(step.waiting is not None for step in seen.steps):
                runs.approve("two")
                break
        assert runs.wait("two", timeout=20).state == "succeeded"
        assert [one.id for one in runs.list()] == ["two", "one"]
        with pytest.raises(sync.RunConflictError):
            runs.cancel("two")
        with pytest.raises(sync.RunNotFoundError):
            runs.get("three")


def test_the_blocking_runs_have_what_the_others_have() -> None:
    from roster._sync_runs import Runs
    from roster.orchestrator.runs.runs import Runs as AsyncRuns

    public = {name for name in vars(AsyncRuns) if not name.startswith("_")}
    # These keep the process, and belong to the orchestrator.
    assert public - set(vars(Runs)) == {"serve", "book", "close"}
