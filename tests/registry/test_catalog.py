"""What the copy makes of what the store says: states, clocks, grace, bad documents. Without a store."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import passport
from tests.registry.fakes import Clock

from roster.passport import NodePassport
from roster.registry.catalog import Catalog, Staging
from roster.registry.keys import node_key, status_key
from roster.registry.status import NodeStatus
from roster.store import Change, Entry


@dataclass
class World:
    """A store that exists only as the changes that it tells."""

    clock: Clock = field(default_factory=Clock)
    thaw_grace: bool = True
    revision: int = 0

    def __post_init__(self) -> None:
        self.catalog = Catalog(now=self.clock, thaw_grace=self.thaw_grace)
        self.stored: dict[str, Entry] = {}

    def put(self, path: str, value: bytes, lease: str | None = None) -> Change:
        entry = Entry(path, value, self.revision, self.revision, lease)
        self.stored[path] = entry
        return Change("put", path, self.revision, value, self.revision, lease)

    def delete(self, path: str) -> Change:
        self.stored.pop(path, None)
        return Change("delete", path, self.revision)

    def tell(self, *changes: Change) -> list[str]:
        return [f"{event.type} {event.name}" for event in self.catalog.apply(changes, self.revision)]

    def register(self, name: str, uid: str = "u1", **status: Any) -> list[str]:
        self.revision += 1
        labels = status.pop("labels", None)
        document = passport(name, "write", labels=labels)
        document["metadata"] |= {"uid": uid, "generation": status.pop("generation", 1)}
        return self.tell(
            self.put(node_key("default", name), NodePassport.from_dict(document).to_json(), "life"),
            self.put(
                status_key("default", name),
                NodeStatus(uid, **{"ttl": 10.0, **status}).encode(),
                f"lease {name}",
            ),
        )

    def report(self, name: str, uid: str = "u1", **status: Any) -> list[str]:
        self.revision += 1
        value = NodeStatus(uid, **{"ttl": 10.0, **status}).encode()
        return self.tell(self.put(status_key("default", name), value, f"lease {name}"))

    def lease_ends(self, *names: str) -> list[str]:
        changes = []
        for name in names:
            self.revision += 1
            changes.append(self.delete(status_key("default", name)))
        return self.tell(*changes)

    def leave(self, name: str) -> list[str]:
        self.revision += 1
        return self.tell(self.delete(node_key("default", name)), self.delete(status_key("default", name)))

    def write(self, name: str, document: object, lease: str | None = None) -> list[str]:
        self.revision += 1
        value = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self.tell(self.put(node_key("default", name), value, lease))

    def list_again(self, *, rebuilt: bool = False) -> list[str]:
        staging = Staging()
        self.catalog.stage([self.stored[key] for key in sorted(self.stored)], staging)
        return [
            f"{event.type} {event.name}"
            for events in self.catalog.swap(staging, self.revision, rebuilt=rebuilt)
            for event in events
        ]

    def tick(self) -> list[str]:
        return [f"{event.type} {event.name}" for event in self.catalog.tick()]

    def state(self, name: str) -> str | None:
        record = self.catalog.index.by_key.get(f"default/{name}")
        return record.state if record is not None else None

    def states(self) -> dict[str, str]:
        return {record.name: record.state for record in self.catalog.index.by_key.values()}


# -- states


def test_a_node_is_what_its_status_says() -> None:
    world = World()
    assert world.register("a") == ["added a"]
    assert world.report("a", state="busy", active_tasks=3, seq=1) == ["busy a"]
    assert world.report("a", state="ready", active_tasks=1, seq=2) == ["ready a"]
    assert world.report("a", state="ready", active_tasks=2, seq=3) == ["modified a"]
    record = world.catalog.index.by_key["default/a"]
    assert (record.active_tasks, record.seq, record.capacity, record.uid) == (2, 3, 1, "u1")
    assert world.report("a", state="draining", seq=4) == ["draining a"]
    assert world.leave("a") == ["removed a"]
    assert world.states() == {}


def test_a_node_whose_lease_ends_is_offline_and_comes_back_with_the_next_registration() -> None:
    world = World()
    world.register("a")
    assert world.lease_ends("a") == ["offline a"]
    assert world.register("a", "u2") == ["ready a"]
    assert world.catalog.index.by_key["default/a"].uid == "u2"


def test_a_status_of_another_incarnation_says_nothing() -> None:
    world = World()
    world.register("a", "u1")
    assert world.report("a", "u9", state="busy") == ["offline a"]


def test_a_passport_without_a_status_is_offline_from_the_start() -> None:
    world = World()
    document = passport("a", "write")
    document["metadata"]["uid"] = "u1"
    assert world.write("a", document) == ["added a"]
    assert world.state("a") == "offline"


def test_a_status_that_comes_before_its_passport_waits_for_it() -> None:
    world = World()
    assert world.report("a", "u1", state="busy") == []
    document = passport("a", "write")
    document["metadata"]["uid"] = "u1"
    assert world.write("a", document) == ["added a"]
    assert world.state("a") == "busy"


def test_a_refresh_of_the_passports_status_section_is_no_event() -> None:
    world = World()
    world.register("a")
    document = json.loads(world.stored[node_key("default", "a")].value)
    document["status"] = {"state": "ready", "last_heartbeat": "2025-12-15T10:00:00Z"}
    assert world.write("a", document) == []
    document["metadata"]["generation"] = 2
    assert world.write("a", document) == ["modified a"]


def test_a_withdrawn_capability_is_not_offered() -> None:
    world = World()
    world.register("a")
    assert world.report("a", withdrawn=("write",)) == ["modified a"]
    assert not world.catalog.index.by_capability("write")
    assert world.report("a") == ["modified a"]
    assert list(world.catalog.index.by_capability("write")) == ["default/a"]


def test_a_cordoned_node_is_shown_as_draining_whatever_it_says() -> None:
    world = World()
    world.register("a")
    document = json.loads(world.stored[node_key("default", "a")].value)
    document["metadata"]["annotations"] = {"ai-team.dev/cordoned": "2025-12-15T10:00:00Z"}
    assert world.write("a", document) == ["draining a"]
    assert world.report("a", state="busy", active_tasks=1) == ["modified a"]
    assert world.state("a") == "draining"
    del document["metadata"]["annotations"]
    assert world.write("a", document) == ["busy a"]


# -- grace


def test_one_node_that_vanishes_is_offline_at_once() -> None:
    world = World()
    for name in ("a", "b", "c", "d"):
        world.register(name)
    assert world.lease_ends("a") == ["offline a"]
    assert world.lease_ends("b") == ["offline b"]


def test_many_nodes_that_vanish_at_once_are_unknown_for_one_ttl_and_then_offline() -> None:
    world = World()
    names = [f"n{number}" for number in range(10)]
    for name in names:
        world.register(name)
    assert sorted(world.lease_ends("n0", "n1", "n2")) == ["unknown n0", "unknown n1", "unknown n2"]
    world.clock.pass_(9.9)
    assert world.tick() == []
    world.clock.pass_(0.2)
    assert sorted(world.tick()) == ["offline n0", "offline n1", "offline n2"]


def test_those_that_went_first_are_unknown_too_once_it_shows_that_many_go() -> None:
    world = World()
    for number in range(10):
        world.register(f"n{number}")
    assert world.lease_ends("n0") == ["offline n0"]
    world.clock.pass_(1)
    assert world.lease_ends("n1") == ["offline n1"]
    world.clock.pass_(1)
    assert sorted(world.lease_ends("n2")) == ["unknown n0", "unknown n1", "unknown n2"]


def test_few_of_many_are_offline_at_once() -> None:
    world = World()
    for number in range(40):
        world.register(f"n{number}")
    assert sorted(world.lease_ends("n0", "n1", "n2")) == ["offline n0", "offline n1", "offline n2"]


def test_deaths_further_apart_than_a_ttl_are_not_counted_together() -> None:
    world = World()
    for number in range(10):
        world.register(f"n{number}")
    for number in range(5):
        assert world.lease_ends(f"n{number}") == [f"offline n{number}"]
        world.clock.pass_(6)


def test_whoever_vanishes_within_a_ttl_after_an_outage_is_unknown_first() -> None:
    world = World()
    for name in ("a", "b", "c"):
        world.register(name)
    world.catalog.outage_over()
    world.clock.pass_(9)
    assert world.lease_ends("a") == ["unknown a"]
    world.clock.pass_(2)
    assert world.lease_ends("b") == ["offline b"]


def test_a_node_that_loses_its_lease_and_is_then_removed_within_one_batch_is_removed() -> None:
    world = World()
    for name in "abc":
        world.register(name)
    changes = []
    for name in "ab":
        for key in (status_key("default", name), node_key("default", name)):
            world.revision += 1
            changes.append(world.delete(key))
    assert world.tell(*changes) == ["removed a", "removed b"]
    assert world.states() == {"c": "ready"}


def test_passports_that_go_with_their_leases_when_many_do_are_kept_as_unknown() -> None:
    world = World()
    for name in "abcd":
        world.register(name)
    changes = []
    for name in "abcd":
        # The passport's own lease first, or the node's.
        keys = [status_key("default", name), node_key("default", name)]
        for key in keys if name in "ab" else reversed(keys):
            world.revision += 1
            changes.append(world.delete(key))
    assert sorted(world.tell(*changes)) == ["unknown a", "unknown b", "unknown c", "unknown d"]
    assert world.register("a", "u2") == ["ready a"]
    world.clock.pass_(10.1)
    assert sorted(world.tick()) == ["removed b", "removed c", "removed d"]
    assert world.states() == {"a": "ready"}


def test_those_removed_first_count_when_many_go() -> None:
    world = World()
    for name in "abcd":
        world.register(name)
    told = []
    for name in "abcd":
        for key in (status_key("default", name), node_key("default", name)):
            world.revision += 1
            told.append(world.tell(world.delete(key)))
    assert told[:4] == [["offline a"], ["removed a"], ["offline b"], ["removed b"]]
    assert told[4:] == [["unknown c"], [], ["unknown d"], []]
    assert world.states() == {"c": "unknown", "d": "unknown"}


def test_a_passport_deleted_while_its_node_lives_is_shown_again_when_it_is_put_back() -> None:
    world = World()
    for name in "abcd":
        world.register(name)
    world.revision += 1
    assert world.tell(*(world.delete(node_key("default", name)) for name in "abc")) == [
        "unknown a",
        "unknown b",
        "unknown c",
    ]
    document = passport("a", "write")
    document["metadata"] |= {"uid": "u1", "generation": 1}
    assert world.write("a", document, "life 2") == ["ready a"]
    assert world.report("b", active_tasks=1) == ["ready b"]  # it lives, whatever became of its passport


def test_many_who_vanish_wholly_in_one_revision_are_suspected_unless_they_were_draining() -> None:
    world = World()
    for name in "abcd":
        world.register(name)
    world.report("d", state="draining")
    world.revision += 1
    keys = [make("default", name) for name in "abcd" for make in (node_key, status_key)]
    told = world.tell(*(world.delete(key) for key in keys))
    assert sorted(told) == ["removed d", "unknown a", "unknown b", "unknown c"]


def test_an_orderly_departure_is_never_held_back() -> None:
    world = World()
    for number in range(6):
        world.register(f"n{number}")
    world.catalog.outage_over()
    for number in range(6):
        assert world.leave(f"n{number}") == [f"removed n{number}"]


def test_an_unknown_node_that_registers_again_is_ready() -> None:
    world = World()
    for name in ("a", "b", "c"):
        world.register(name)
    world.lease_ends("a", "b", "c")
    assert world.register("a", "u2") == ["ready a"]
    world.clock.pass_(11)
    assert sorted(world.tick()) == ["offline b", "offline c"]
    assert world.state("a") == "ready"


def test_grace_can_be_switched_off() -> None:
    world = World(thaw_grace=False)
    for name in ("a", "b", "c"):
        world.register(name)
    world.catalog.outage_over()
    assert sorted(world.lease_ends("a", "b", "c")) == ["offline a", "offline b", "offline c"]


def test_a_lease_lost_and_taken_again_within_one_batch_is_never_seen_as_death() -> None:
    world = World()
    world.register("a")
    world.revision += 1
    gone = world.delete(status_key("default", "a"))
    world.revision += 1
    back = world.put(status_key("default", "a"), NodeStatus("u1", state="busy", ttl=10.0).encode(), "l2")
    assert world.tell(gone, back) == ["busy a"]


# -- founding-style documents


def founding(name: str, heartbeat: str = "2025-12-15T10:00:00Z", **status: Any) -> dict[str, Any]:
    return passport(name, "write") | {"status": {"state": "ready", "last_heartbeat": heartbeat, **status}}


def test_a_founding_document_without_a_lease_lives_while_it_keeps_changing() -> None:
    world = World()
    assert world.write("old", founding("old", "t0")) == ["added old"]
    assert world.state("old") == "ready"
    for beat in range(1, 6):
        world.clock.pass_(50)
        assert world.write("old", founding("old", f"t{beat}")) == [] == world.tick()
    world.clock.pass_(59)
    assert world.tick() == []
    world.clock.pass_(2)
    assert world.tick() == ["offline old"]
    assert world.write("old", founding("old", "t9")) == ["ready old"]


def test_a_founding_document_with_a_lease_lives_as_long_as_the_lease() -> None:
    world = World()
    world.write("old", founding("old"), lease="theirs")
    world.clock.pass_(10_000)
    assert world.tick() == []
    assert world.state("old") == "ready"
    world.revision += 1
    assert world.tell(world.delete(node_key("default", "old"))) == ["removed old"]


def test_a_founding_node_has_the_state_and_the_load_that_its_document_says() -> None:
    world = World()
    world.write("old", founding("old"))
    assert world.write("old", founding("old", state="busy", active_tasks=2)) == ["busy old"]
    assert world.catalog.index.by_key["default/old"].active_tasks == 2
    assert world.write("old", founding("old", state="offline")) == ["offline old"]
    assert world.write("old", founding("old", state="hungover")) == ["unknown old"]


def test_a_change_of_a_founding_documents_content_is_an_event_and_a_heartbeat_is_none() -> None:
    world = World()
    world.write("old", founding("old"))
    changed = founding("old")
    changed["metadata"]["labels"] = {"a": "b"}
    assert world.write("old", changed) == ["modified old"]


def test_ageing_starts_anew_after_a_pause_or_an_outage() -> None:
    world = World()
    world.write("old", founding("old"))
    world.clock.pass_(59)
    world.catalog.outage_over()
    world.clock.pass_(59)
    assert world.tick() == []
    world.clock.pass_(2)
    assert world.tick() == ["offline old"]


def test_a_founding_node_that_registers_properly_stops_ageing() -> None:
    world = World()
    world.write("a", founding("a"))
    world.register("a")
    world.clock.pass_(1000)
    assert world.tick() == []
    assert world.state("a") == "ready"


# -- bad documents


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"\xff\xfe\x00", ""),
        (b"{", ""),
        (b"[1]", "expected"),
        (b"a: &a [1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b]", ""),
        (b'{"apiVersion": ' + b"9" * 5000 + b"}", ""),
        (b'{"apiVersion": "ai-team.dev/v1", "kind": "Pod", "metadata": {"name": "bad"}, "spec": {}}', "kind"),
        (b"[" * 100_000, ""),
        (passport("other"), "the key is the identity"),
        (passport("bad", namespace="elsewhere"), "the key is the identity"),
        (passport("bad") | {"metadata": {"name": "bad", "labels": {"a": 1}}}, "labels"),
        (passport("bad") | {"spec": {"capabilities": [{"name": 7}]}}, "capabilities"),
        (passport("bad") | {"spec": {"capabilities": "write"}}, "capabilities"),
        (passport("bad") | {"spec": {"communication": {"mindbus_queue": ["q"]}}}, "mindbus_queue"),
        (passport("bad") | {"spec": {"resources": {"max_concurrent_tasks": "many"}}}, "max_concurrent_tasks"),
        (passport("bad") | {"status": {"state": ["ready"]}}, "state"),
        (passport("bad") | {"status": ["ready"]}, "status"),
        (
            passport("bad") | {"metadata": {"name": "bad", "annotations": {"ai-team.dev/cordoned": 1}}},
            "annotations",
        ),
        (passport("bad") | {"status": {"active_tasks": "many"}}, "active_tasks"),
        (passport("bad") | {"metadata": {"name": "bad", "uid": 7}}, "uid"),
    ],
)
def test_a_document_that_cannot_be_used_is_quarantined_alone(document: object, why: str) -> None:
    world = World()
    world.register("good")
    assert world.write("bad", document) == []
    assert world.states() == {"good": "ready"}
    assert list(world.catalog.quarantined) == ["/ai-team/nodes/default/bad"]
    assert why in world.catalog.quarantined["/ai-team/nodes/default/bad"]
    assert world.list_again() == []
    assert list(world.catalog.quarantined) == ["/ai-team/nodes/default/bad"]
    assert world.write("bad", passport("bad")) == ["added bad"]
    assert not world.catalog.quarantined


def test_a_node_whose_document_goes_bad_is_not_served_any_more() -> None:
    world = World()
    world.register("a")
    assert world.write("a", b"{") == ["removed a"]
    assert world.register("a", "u2") == ["added a"]


@pytest.mark.parametrize(
    "status",
    [
        b"{",
        b"[]",
        b'{"uid": 7}',
        b'{"uid": "u1", "state": "dead"}',
        b'{"uid": "u1", "state": "ready", "active_tasks": -1}',
        b'{"uid": "u1", "state": "ready", "active_tasks": true}',
        b'{"uid": "u1", "state": "ready", "capacity": 1e9}',
        b'{"uid": "u1", "state": "ready", "ttl": NaN}',
        b'{"uid": "u1", "state": "ready", "seq": ' + b"9" * 5000 + b"}",
        b'{"uid": "u1", "state": "ready", "withdrawn": "write"}',
        b'{"uid": "u1", "state": "ready", "conditions": [{"type": 1}]}',
        b'{"uid": "u1", "state": "ready", "registered_at": "\\ud800"}',
        b'{"uid": "u1", "state": "ready", "x": "' + b"y" * 20_000 + b'"}',
    ],
)
def test_a_status_that_cannot_be_read_counts_as_none_and_is_shown(status: bytes) -> None:
    world = World()
    world.register("a")
    world.revision += 1
    assert world.tell(world.put(status_key("default", "a"), status, "lease a")) == ["offline a"]
    assert list(world.catalog.quarantined) == ["/ai-team/status/default/a"]
    assert world.report("a") == ["ready a"]
    assert not world.catalog.quarantined


@pytest.mark.parametrize(
    "path",
    [
        "/ai-team/nodes/writer",
        "/ai-team/nodes/default/../etc",
        "/ai-team/nodes/default/a/b",
        "/ai-team/nodes/Default/a",
        "/ai-team/nodes/default/a\n",
        "/ai-team/nodes//a",
        "/ai-team/status/default/аdmin",
        f"/ai-team/nodes/default/{'a' * 64}",
    ],
)
def test_keys_that_spell_no_node_are_ignored_and_shown(path: str) -> None:
    world = World()
    world.revision += 1
    assert world.tell(world.put(path, json.dumps(passport("a")).encode())) == []
    assert list(world.catalog.quarantined) == [path]
    world.revision += 1
    world.tell(world.delete(path))
    assert not world.catalog.quarantined


# -- listing again


def test_a_listing_is_told_as_its_differences_none_twice() -> None:
    world = World()
    for name in ("same", "gone", "dead", "changed"):
        world.register(name)
    world.stored.pop(node_key("default", "gone"))
    world.stored.pop(status_key("default", "gone"))
    world.stored.pop(status_key("default", "dead"))
    told = world.tell
    world.tell = lambda *changes: []  # type: ignore[method-assign]  # what follows is missed
    world.register("new")
    world.report("changed", state="busy", active_tasks=1)
    world.tell = told  # type: ignore[method-assign]  # heard again
    assert sorted(world.list_again()) == ["added new", "busy changed", "offline dead", "removed gone"]
    assert world.list_again() == []


def test_nodes_missing_from_a_wiped_store_are_unknown_until_they_had_time_to_come_back() -> None:
    world = World()
    for name in ("a", "b"):
        world.register(name)
    world.catalog.outage_over()
    world.stored.clear()
    assert sorted(world.list_again(rebuilt=True)) == ["unknown a", "unknown b"]
    assert world.list_again() == []
    world.clock.pass_(5)
    world.register("a", "u2")
    assert world.states() == {"a": "ready", "b": "unknown"}
    world.clock.pass_(6)
    assert world.tick() == ["removed b"]


def test_a_restored_store_with_the_same_revision_and_other_content_is_taken_as_it_is() -> None:
    world = World()
    world.register("a")
    entry = world.stored[status_key("default", "a")]
    world.stored[status_key("default", "a")] = Entry(
        entry.key,
        NodeStatus("u1", state="busy").encode(),
        entry.create_revision,
        entry.mod_revision,
        entry.lease,
    )
    assert world.list_again() == ["busy a"]


# -- the copy equals the store, however it got there

NAMES = ("a", "b", "c")
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["register", "report", "lease", "leave", "bad", "founding", "list"]),
        st.sampled_from(NAMES),
        st.integers(0, 3),
    ),
    max_size=30,
)


@settings(max_examples=60)
@given(ACTIONS)
def test_following_the_changes_and_listing_afresh_give_the_same_copy(
    actions: list[tuple[str, str, int]],
) -> None:
    world = World(thaw_grace=False)
    seen: dict[str, str] = {}
    for action, name, number in actions:
        events: list[str] = []
        if action == "register":
            events = world.register(name, f"u{number}", labels={"n": str(number)})
        elif action == "report":
            events = world.report(name, f"u{number}", state="busy", active_tasks=number)
        elif action == "lease":
            events = world.lease_ends(name)
        elif action == "leave":
            events = world.leave(name)
        elif action == "bad":
            events = world.write(name, b"{")
        elif action == "founding":
            events = world.write(name, founding(name, f"t{number}"))
        else:
            assert world.list_again() == []
        for event in events:
            kind, _, who = event.partition(" ")
            assert (kind == "added") == (who not in seen), f"{event} after {seen}"
            if kind == "removed":
                del seen[who]
            else:
                seen[who] = kind
    fresh = World(clock=world.clock, thaw_grace=False)
    fresh.stored, fresh.revision = world.stored, world.revision
    fresh.list_again()
    assert world.states() == fresh.states()
    assert set(seen) == set(world.states())
    assert world.catalog.quarantined.keys() == fresh.catalog.quarantined.keys()
    for catalog in (world.catalog, fresh.catalog):
        offering = {key for key, record in catalog.index.by_key.items() if "write" in record.capabilities}
        assert set(catalog.index.by_capability("write")) == offering
        for record in catalog.index.by_key.values():
            assert [one.key for one in catalog.index.by_queue(record.mindbus_queue)] == [record.key]
            assert record in catalog.index.by_labels(record.labels.__eq__)
