"""Being in the registry: registering, reporting, conflicts, takeover, losing the lease and coming back."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from tests.conftest import eventually, passport
from tests.registry.conftest import Open, each_engine
from tests.registry.fakes import FaultyStore

from roster.errors import (
    ConfigError,
    DocumentError,
    NameConflictError,
    NodeNotFoundError,
    RegistryError,
    StoreUnavailableError,
)
from roster.registry import Holder, NodeStatus, Registration, Registry
from roster.registry.holder import this_process
from roster.registry.keys import node_key, status_key
from roster.store import Entry, Put

WRITER = passport("writer-001", "write", "edit", labels={"role": "writer"})
NODE = node_key("default", "writer-001")
STATUS = status_key("default", "writer-001")


async def status(registry: Registry) -> NodeStatus:
    entry = await registry.store.get(STATUS)
    assert entry is not None
    return NodeStatus.decode(entry.value, STATUS)


async def hold_from_elsewhere(registry: Registry, ttl: float) -> str:
    """Hold the name as a process of another machine would; return the lease's id."""
    there = replace(this_process(), host="elsewhere", boot_id="another boot", pid=4711)
    lease = await registry.store.grant(ttl)
    document = WRITER | {"metadata": {**WRITER["metadata"], "uid": "theirs"}}
    said = NodeStatus("theirs", ttl=ttl, holder=there)
    await registry.store.transact(
        [], [Put(NODE, json.dumps(document).encode()), Put(STATUS, said.encode(), lease.id)]
    )
    return lease.id


@each_engine
async def test_a_registered_node_is_found_and_a_deregistered_one_is_gone(open_registry: Open) -> None:
    here, there = await open_registry(), await open_registry()
    registration = await here.register(WRITER)
    (found,) = await there.find_by_capability("write")
    assert (found.key, found.state, found.uid) == ("default/writer-001", "ready", registration.uid)
    assert found.passport.generation == 1
    assert found["metadata"]["uid"] == registration.uid
    await registration.deregister()
    await eventually(lambda: not there.informer.all())
    assert await here.store.get(NODE) is None
    assert await here.store.get(STATUS) is None
    await registration.deregister()


@each_engine
async def test_a_registration_that_is_given_up_is_offline_and_stays_listed(registry: Registry) -> None:
    registration = await registry.register(WRITER)
    await registry.get("writer-001")
    await registration.abandon()
    await eventually(lambda: (one := registry.informer.get("default/writer-001")) and one.state == "offline")
    again = await registry.register(WRITER)
    assert registration.state == "offline"
    assert again.uid != registration.uid
    await registration.abandon()


async def test_a_passport_may_be_a_path_a_dict_or_a_passport(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "passport.json"
    path.write_text(json.dumps(WRITER))
    for given in (path, str(path), WRITER):
        async with (
            await registry.register(given) as registration,
            await registry.register(
                registration.passport.with_metadata(name="writer-002", uid=None)
            ) as second,
        ):
            assert second.key == "default/writer-002"


@each_engine
async def test_closing_the_registry_deregisters(open_registry: Open, url: str) -> None:
    other = await open_registry()
    async with Registry.connect(url) as registry:
        await registry.register(WRITER)
        await other.get("writer-001")
    assert await other.store.list("/ai-team/") == await other.store.list("/ai-team/", after="/ai-team/")
    assert not (await other.store.list("/ai-team/")).entries


@each_engine
async def test_every_registration_is_another_incarnation_and_the_generation_counts_changes(
    registry: Registry,
) -> None:
    first = await registry.register(WRITER)
    uid = first.uid
    first.lose("for the test")
    await eventually(lambda: first.uid != uid)
    assert first.passport.generation == 1
    changed = await first.update(labels={"role": "editor"})
    assert changed.generation == 2
    assert (await first.update(labels={"role": "editor"})).generation == 2
    assert changed.uid == first.uid


async def test_a_name_held_by_a_live_process_is_refused_at_once_and_nothing_changes(
    open_registry: Open,
) -> None:
    first, second = await open_registry(), await open_registry()
    await first.register(WRITER)
    before = await first.store.list("/ai-team/")
    with pytest.raises(NameConflictError, match=rf"host .* pid {this_process().pid}, which is alive"):
        await second.register(WRITER)
    assert await first.store.list("/ai-team/") == before


@each_engine
async def test_fifty_who_race_for_one_name_get_it_exactly_once(open_registry: Open) -> None:
    registries = [await open_registry() for _ in range(5)]
    results = await asyncio.gather(
        *(registries[number % 5].register(WRITER) for number in range(50)), return_exceptions=True
    )
    winners = [result for result in results if isinstance(result, Registration)]
    assert len(winners) == 1
    assert sum(isinstance(result, NameConflictError) for result in results) == 49
    assert (await status(registries[0])).uid == winners[0].uid


@each_engine
async def test_takeover_replaces_the_holder_which_ends_and_does_not_fight_back(open_registry: Open) -> None:
    first, second = await open_registry(), await open_registry()
    old = await first.register(WRITER, ttl=3)
    lost: list[str] = []
    displaced: list[NameConflictError] = []
    old.on_lost, old.on_displaced = lost.append, displaced.append
    new = await second.register(WRITER, takeover=True)
    with pytest.raises(NameConflictError, match="taken over"):
        await asyncio.wait_for(old.wait_ended(), 20)
    assert old.state == "offline"
    assert len(lost) == len(displaced) == 1
    assert displaced[0] is old.error
    assert (await status(second)).uid == new.uid
    with pytest.raises(NameConflictError):
        await old.set_state("draining")


async def test_a_displaced_node_learns_it_at_its_next_write(open_registry: Open) -> None:
    first, second = await open_registry(), await open_registry()
    old = await first.register(WRITER, ttl=600)
    await second.register(WRITER, takeover=True)
    with pytest.raises(NameConflictError, match="taken over"):
        await old.set_state("draining")
    assert old.error is not None


async def test_a_dead_local_holder_is_replaced_at_once(registry: Registry) -> None:
    await hold_from_elsewhere(registry, ttl=600)
    said = await status(registry)
    assert said.holder is not None
    dead = replace(this_process(), start=this_process().start + 1)
    entry = await registry.store.get(STATUS)
    assert entry is not None
    await registry.store.put(STATUS, replace(said, holder=dead).encode(), lease=entry.lease)
    waits: list[str] = []
    registration = await asyncio.wait_for(registry.register(WRITER, on_wait=waits.append), 5)
    assert (await status(registry)).uid == registration.uid
    assert not waits


@each_engine
async def test_a_holder_that_may_be_dead_is_waited_for_until_its_lease_ends(registry: Registry) -> None:
    await hold_from_elsewhere(registry, ttl=1)
    waits: list[str] = []
    registration = await asyncio.wait_for(registry.register(WRITER, on_wait=waits.append), 20)
    assert (await status(registry)).uid == registration.uid
    (sentence,) = waits
    assert "host elsewhere pid 4711" in sentence
    assert "at most 1 s" in sentence


async def test_waiting_is_bounded_by_the_callers_wish(registry: Registry) -> None:
    await hold_from_elsewhere(registry, ttl=600)
    with pytest.raises(NameConflictError, match="elsewhere"):
        await registry.register(WRITER, wait=0)
    with pytest.raises(NameConflictError, match=r"not ended after 0\.2 s"):
        await registry.register(WRITER, wait=0.2)
    assert (await status(registry)).uid == "theirs"


@each_engine
async def test_a_remote_holder_that_lives_shows_it_within_a_keep_alive(
    open_registry: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await open_registry(), await open_registry()
    holder = await first.register(WRITER, ttl=3)
    uid = holder.uid
    monkeypatch.setattr(Holder, "liveness", lambda self: "unknown")  # as from another machine
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(NameConflictError, match="it is alive"):
        await second.register(WRITER)
    assert loop.time() - began < 2
    assert (await status(first)).uid == uid
    assert not (await status(first)).challenge


async def test_contenders_for_a_dead_remote_holders_name_do_not_take_each_other_for_it(
    open_registry: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    registries = [await open_registry() for _ in range(3)]
    await hold_from_elsewhere(registries[0], ttl=1)
    results = await asyncio.gather(*(one.register(WRITER) for one in registries), return_exceptions=True)
    assert sum(isinstance(result, Registration) for result in results) == 1
    assert sum(isinstance(result, NameConflictError) for result in results) == 2


@each_engine
async def test_a_node_whose_lease_the_store_ended_registers_again_by_itself(open_registry: Open) -> None:
    here, there = await open_registry(), await open_registry()
    registration = await here.register(WRITER, ttl=3)
    uid = registration.uid
    lost: list[str] = []
    back: list[str] = []
    registration.on_lost, registration.on_registered = lost.append, back.append
    await there.store.delete(STATUS)
    await eventually(lambda: back)
    assert back == [registration.uid] != [uid]
    assert len(lost) == 1
    assert not registration.lost
    assert (await there.get("writer-001")).uid == registration.uid


@each_engine
async def test_a_store_that_shows_a_former_life_again_does_not_cost_the_node_its_name(
    open_registry: Open,
) -> None:
    here, there = await open_registry(), await open_registry()
    registration = await here.register(WRITER, ttl=3)
    first = registration.uid
    lives: list[str] = []
    registration.on_registered = lives.append
    backup = [await there.store.get(key) for key in (NODE, STATUS)]
    registration.lose("for the test")
    await eventually(lambda: lives)
    lease = await there.store.grant(60)
    await there.store.transact([], [Put(entry.key, entry.value, lease.id) for entry in backup if entry])
    assert (await status(there)).uid == first
    await eventually(lambda: len(lives) == 2)
    assert registration.error is None
    assert (await status(there)).uid == registration.uid == lives[-1] not in (first, lives[0])
    await there.store.transact([], [Put(entry.key, entry.value, lease.id) for entry in backup if entry])
    await registration.deregister()
    assert await there.store.get(NODE) is await there.store.get(STATUS) is None


async def test_what_was_said_before_the_loss_is_said_again(registry: Registry) -> None:
    registration = await registry.register(WRITER, ttl=1)
    await registration.set_state("draining")
    registration.withdraw("edit")
    registration.set_condition("Tired", "True", "Late", "it is late")
    uid = registration.uid
    registration.lose("for the test")
    await eventually(lambda: registration.uid != uid)
    said = await status(registry)
    assert (said.state, said.withdrawn, said.conditions[0].type) == ("draining", ("edit",), "Tired")


async def test_a_silent_store_is_no_loss(faulty: tuple[FaultyStore, Registry, Registry]) -> None:
    store, registry, other = faulty
    registration = await registry.register(WRITER, ttl=2)
    uid = registration.uid
    lost: list[str] = []
    registration.on_lost = lost.append
    store.take_away()
    calls = store.calls
    with pytest.raises(StoreUnavailableError):
        await registration.set_state("draining")
    await eventually(lambda: store.calls > calls + 2)
    store.give_back()
    await other.synced()
    await eventually(lambda: (r := other.informer.get("default/writer-001")) and r.state == "draining")
    assert registration.uid == uid
    assert not lost


async def test_a_write_whose_answer_was_lost_is_recognised_and_done_again(
    faulty: tuple[FaultyStore, Registry, Registry],
) -> None:
    store, registry, other = faulty
    registration = await registry.register(WRITER, ttl=1)
    uid = registration.uid
    store.lose_answers = 1
    with pytest.raises(StoreUnavailableError):
        await registration.set_state("draining")
    await registration.update(labels={"role": "editor"})
    assert registration.uid == uid
    assert (await other.get("writer-001")).labels == {"role": "editor"}


async def test_a_re_registration_whose_answer_was_lost_is_not_taken_for_somebody_elses(
    faulty: tuple[FaultyStore, Registry, Registry],
) -> None:
    store, registry, other = faulty
    registration = await registry.register(WRITER, ttl=1)
    back: list[str] = []
    registration.on_registered = back.append
    store.lose_answers = 2
    registration.lose("for the test")
    await eventually(lambda: back)
    assert registration.error is None
    assert (await other.get("writer-001")).uid == registration.uid


@each_engine
async def test_load_is_written_rarely_and_a_change_of_state_at_once(open_registry: Open) -> None:
    here, there = await open_registry(), await open_registry()
    registration = await here.register(WRITER)
    await there.synced()
    get = there.informer.get
    for active in (1, 2, 3):
        registration.report(active)
    await eventually(
        lambda: (r := get("default/writer-001")) and r.state == "busy" and r.active_tasks == 3, 3
    )
    writes = (await there.store.info()).revision
    for active in (2, 1, 2, 1):
        registration.report(active)
    await eventually(
        lambda: (r := get("default/writer-001")) and r.state == "ready" and r.active_tasks == 1, 3
    )
    after = (await there.store.info()).revision
    # Where revisions count more than changes of keys, nothing more can be said of their number.
    assert after == writes + 1 if there.store.grade == "history" else after > writes
    record = get("default/writer-001")
    assert record is not None
    assert record.seq == registration.seq == 7


async def test_a_report_may_come_from_another_thread(open_registry: Open) -> None:
    here, there = await open_registry(), await open_registry()
    registration = await here.register(WRITER)
    await there.synced()
    thread = threading.Thread(target=lambda: registration.report(3, seq=40))
    thread.start()
    thread.join()
    await eventually(lambda: (r := there.informer.get("default/writer-001")) and r.state == "busy")
    assert registration.seq == 40


async def test_labels_and_capabilities_change_at_run_time(open_registry: Open) -> None:
    here, there = await open_registry(), await open_registry()
    registration = await here.register(WRITER)
    assert await there.find_by_capability("edit")
    await registration.update(labels={"role": "editor"}, capabilities=[{"name": "edit", "version": "2.0.0"}])
    await eventually(lambda: not there.informer.by_capability("write"))
    (found,) = await there.find(selector="role=editor", capability="edit", version=">=2")
    assert found.capabilities == {"edit": "2.0.0"}
    with pytest.raises(DocumentError):
        await registration.update(capabilities=[{"name": ""}])
    assert [capability.name for capability in registration.passport.capabilities] == ["edit"]


async def test_one_capability_can_be_withdrawn_and_restored(open_registry: Open) -> None:
    here, there = await open_registry(), await open_registry()
    registration = await here.register(WRITER)
    await there.synced()
    registration.withdraw("edit")
    await eventually(lambda: not there.informer.by_capability("edit"))
    assert await there.find_by_capability("write")
    registration.restore("edit")
    await eventually(lambda: there.informer.by_capability("edit"))
    with pytest.raises(NodeNotFoundError):
        registration.withdraw("fly")


async def test_conditions_are_shown_and_taken_away(open_registry: Open) -> None:
    here, there = await open_registry(), await open_registry()
    registration = await here.register(WRITER)
    await there.synced()
    registration.set_condition("Responsive", "False", "EventLoopBlocked", "a handler blocks it")

    def conditions() -> tuple[str, ...]:
        record = there.informer.get("default/writer-001")
        assert record is not None
        assert record.status is not None
        return tuple(f"{one.type}={one.status}" for one in record.status.conditions)

    await eventually(lambda: conditions() == ("Responsive=False",))
    assert (await there.get("writer-001"))["status"]["conditions"][0]["reason"] == "EventLoopBlocked"
    registration.set_condition("Responsive", None)
    await eventually(lambda: conditions() == ())


@each_engine
async def test_a_cordon_survives_what_the_node_writes_and_its_new_incarnations(open_registry: Open) -> None:
    here, there = await open_registry(), await open_registry()
    registration = await here.register(WRITER, ttl=1)
    await there.drain("writer-001")
    await there.synced()
    await eventually(lambda: (r := there.informer.get("default/writer-001")) and r.state == "draining")
    await eventually(lambda: registration.cordoned, 5)
    await registration.update(annotations={"note": "привет"})
    uid = registration.uid
    registration.lose("for the test")
    await eventually(lambda: registration.uid != uid)
    await eventually(lambda: (r := there.informer.get("default/writer-001")) and r.uid == registration.uid)
    record = await there.get("writer-001")
    assert record.cordoned
    assert record.state == "draining"
    assert record["metadata"]["annotations"]["note"] == "привет"
    await there.undrain("writer-001")
    await eventually(lambda: (r := there.informer.get("default/writer-001")) and r.state == "ready")


async def test_a_passport_that_somebody_deleted_is_put_back(open_registry: Open) -> None:
    here, there = await open_registry(), await open_registry()
    registration = await here.register(WRITER, ttl=1)
    await there.get("writer-001")
    await there.store.delete(NODE)
    await eventually(lambda: not there.informer.all())
    await eventually(lambda: (r := there.informer.get("default/writer-001")) and r.healthy, 5)
    assert registration.error is None


async def test_the_passport_shows_the_moment_of_registration_unless_it_is_refreshed(
    registry: Registry,
) -> None:
    async def said(name: str) -> str:
        entry = await registry.store.get(node_key("default", name))
        assert entry is not None
        return str(json.loads(entry.value)["status"]["state"])

    quiet = await registry.register(WRITER)
    await quiet.set_state("draining")
    assert await said("writer-001") == "ready"
    loud = await registry.register(passport("writer-002", "write"), passport_refresh=30)
    await loud.set_state("draining")
    assert await said("writer-002") == "draining"


async def test_a_refreshed_passport_beats_for_readers_of_the_founding_document(open_registry: Open) -> None:
    here, there = await open_registry(), await open_registry()
    await here.register(WRITER, passport_refresh=1)
    record = await there.get("writer-001")

    async def entry() -> Entry:
        found = await there.store.get(NODE)
        assert found is not None
        return found

    before = await entry()
    events: list[str] = []
    there.informer.add_listener(lambda event: events.append(event.type))
    await eventually(lambda: (r := there.informer.get(record.key)) and r.raw != before.value, 5)
    after = json.loads((await entry()).value)["status"]["last_heartbeat"]
    assert after > json.loads(before.value)["status"]["last_heartbeat"]
    assert "removed" not in events
    assert "offline" not in events


@each_engine
async def test_a_dead_node_stays_listed_as_offline_for_its_retention_and_then_goes(url: str) -> None:
    async with Registry.connect(url) as there, Registry.connect(url) as here:
        engine = (await here.store.info()).engine
        registration = await here.register(WRITER, ttl=1, retention=2)
        await there.get("writer-001")
        events: list[str] = []
        there.informer.add_listener(lambda event: events.append(event.type))
        await registration._stop_tasks()  # as a process that hangs for ever
        if engine == "zookeeper":  # it has no long leases: somebody has to clear up
            await eventually(lambda: "offline" in events, 8)
            assert await there.prune() == ["default/writer-001"]
        # The shortest long lease of Consul: a session of 10 s, which it ends after twice that.
        await eventually(lambda: "removed" in events, 30 if engine == "consul" else 8)
        assert events == ["added", "offline", "removed"]
        assert not (await there.store.list("/ai-team/")).entries


async def test_durations_and_states_are_checked(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="ttl is between"):
        await registry.register(WRITER, ttl=0.1)
    with pytest.raises(ConfigError, match="registers as one of"):
        await registry.register(WRITER, state="offline")
    monkeypatch.setenv("ROSTER_TTL", "soon")
    with pytest.raises(ConfigError, match="ROSTER_TTL is a number of seconds"):
        await registry.register(WRITER)
    monkeypatch.setenv("ROSTER_TTL", "7")
    assert (await registry.register(WRITER)).ttl == 7


async def test_a_bad_passport_is_refused_and_nothing_is_written(registry: Registry) -> None:
    with pytest.raises(DocumentError):
        await registry.register({"apiVersion": "ai-team.dev/v9"})
    assert not (await registry.store.list("/ai-team/")).entries


async def test_a_hook_that_fails_does_not_cost_the_registration(registry: Registry) -> None:
    registration = await registry.register(WRITER, ttl=1)

    def fail(_: str) -> None:
        raise RuntimeError("the owner's mistake")

    registration.on_lost = registration.on_registered = fail
    uid = registration.uid
    registration.lose("for the test")
    await eventually(lambda: registration.uid != uid)


async def test_deleting_a_live_node_needs_force_and_it_comes_back(open_registry: Open) -> None:
    here, there = await open_registry(), await open_registry()
    registration = await here.register(WRITER, ttl=1)
    uid = registration.uid
    with pytest.raises(RegistryError, match="is alive"):
        await there.delete("writer-001")
    await there.delete("writer-001", force=True)
    assert await there.store.get(NODE) is None
    await eventually(lambda: registration.uid != uid, 5)
    with pytest.raises(NodeNotFoundError):
        await there.delete("nobody")


@each_engine
async def test_offline_nodes_can_be_deleted_and_pruned(registry: Registry) -> None:
    for name in ("dead-1", "dead-2"):
        document = passport(name, "write")
        document["metadata"]["uid"] = "u"
        document["status"] = {"last_heartbeat": "2025-01-01T00:00:00Z"}
        await registry.store.put(node_key("default", name), json.dumps(document).encode())
    old = passport("founding", "write") | {"status": {"last_heartbeat": "2025-01-01T00:00:00Z"}}
    await registry.store.put(node_key("default", "founding"), json.dumps(old).encode())
    await registry.register(WRITER)
    await registry.delete("dead-1")
    assert await registry.prune() == ["default/dead-2"]
    assert await registry.prune(older_than=1e12) == []
    assert await registry.prune(older_than=3600) == ["default/founding"]
    await eventually(lambda: [record.name for record in registry.informer.all()] == ["writer-001"])


async def test_an_outage_is_logged_when_it_begins_and_when_it_is_over_and_not_at_each_try(
    faulty: tuple[FaultyStore, Registry, Registry], caplog: pytest.LogCaptureFixture
) -> None:
    store, registry, _ = faulty
    caplog.set_level("DEBUG", "roster.registry")
    registration = await registry.register(passport("a", "x"), ttl=1)
    store.take_away()
    await eventually(lambda: len([one for one in caplog.records if "could not reach" in one.message]) >= 3)
    store.give_back()
    await eventually(lambda: [one for one in caplog.records if "reaches the store again" in one.message])
    await registration.deregister()

    told = [one for one in caplog.records if one.levelname != "DEBUG" and "the store" in one.message]
    assert [(one.levelname, one.message.split(",")[0]) for one in told] == [
        ("WARNING", "default/a could not reach the store"),
        ("INFO", "default/a reaches the store again"),
    ]
    assert {vars(one)["node"] for one in told} == {"default/a"}
    assert {vars(one)["uid"] for one in told} == {registration.uid}
