"""Transactions planned on what was seen, done on what is there: against a small model of ZooKeeper's own rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from roster.errors import ConflictError, LeaseLostError, LimitError
from roster.store import Check, Delete, Put
from roster.store.base import Op
from roster.store.zookeeper.names import BIRTHS, ancestors, directory_of, to_path, to_value, under
from roster.store.zookeeper.packets import Create, Remove, Set, Stat, Step, Verify
from roster.store.zookeeper.planning import PERSISTENT, Plan, Seen, lease_of, owner_of, plan, session_of


class RefusedError(Exception):
    """ZooKeeper does none of the steps."""


@dataclass
class Znode:
    data: bytes
    owner: int
    czxid: int
    mzxid: int
    version: int = 0


@dataclass
class Model:
    """A tree of znodes with ZooKeeper's rules for transactions."""

    znodes: dict[str, Znode] = field(default_factory=dict)
    zxid: int = 0

    def children(self, path: str) -> int:
        return sum(directory_of(other) == path for other in self.znodes)

    def stat(self, path: str) -> Stat | None:
        znode = self.znodes.get(path)
        if znode is None:
            return None
        return Stat(
            znode.czxid,
            znode.mzxid,
            0,
            0,
            znode.version,
            0,
            0,
            znode.owner,
            len(znode.data),
            self.children(path),
            0,
        )

    def multi(self, steps: Sequence[Step], session: int) -> None:
        before = {path: Znode(**vars(znode)) for path, znode in self.znodes.items()}
        self.zxid += 1
        try:
            for step in steps:
                self.do(step, session)
        except RefusedError:
            self.znodes = before
            raise

    def do(self, step: Step, session: int) -> None:
        znode = self.znodes.get(step.path)
        if isinstance(step, Create):
            above = directory_of(step.path)
            if znode is not None or (above != "/" and above not in self.znodes):
                raise RefusedError
            if above != "/" and self.znodes[above].owner:
                raise RefusedError
            owner = session if step.ephemeral else 0
            self.znodes[step.path] = Znode(step.data, owner, self.zxid, self.zxid)
            return
        if znode is None or step.version not in (-1, znode.version):
            raise RefusedError
        if isinstance(step, Remove):
            if self.children(step.path):
                raise RefusedError
            del self.znodes[step.path]
        elif isinstance(step, Set):
            znode.data, znode.version, znode.mzxid = step.data, znode.version + 1, self.zxid
        else:
            assert isinstance(step, Verify)

    def expire(self, session: int) -> None:
        self.zxid += 1
        self.znodes = {path: znode for path, znode in self.znodes.items() if znode.owner != session}

    def look(self, checks: Sequence[Check], ops: Sequence[Op]) -> Seen:
        seen = Seen()
        for each in (*checks, *ops):
            path = to_path(each.key)
            directory = directory_of(path)
            seen.births[directory] = self.stat(under(directory, BIRTHS))
            seen.znodes[path] = self.stat(path)
            seen.missing[directory] = [above for above in ancestors(directory) if above not in self.znodes]
        return seen

    def key(self, key: str) -> tuple[bytes, int, int] | None:
        """Return value, revision and owner of a key."""
        znode = self.znodes.get(to_path(key))
        return None if znode is None or not znode.data else (to_value(znode.data), znode.mzxid, znode.owner)


SESSIONS = (7, 8)
BINDINGS = {f"{session}": session for session in SESSIONS}
KEYS = ("/d/a", "/d/b", "/d/a/x", "/e/c")
leases = st.sampled_from((None, *BINDINGS))
ops = st.lists(
    st.one_of(
        st.builds(Put, st.sampled_from(KEYS), st.sampled_from((b"", b"1", b"2")), leases),
        st.builds(Delete, st.sampled_from(KEYS)),
    ),
    max_size=3,
    unique_by=lambda op: op.key,
)
writes = st.tuples(st.lists(st.sampled_from(KEYS), max_size=2, unique=True), ops, st.sampled_from(SESSIONS))
storm = st.lists(st.one_of(writes, st.sampled_from(SESSIONS)), max_size=8)


def planned(
    model: Model, seen: Seen, checks: Sequence[Check], wanted: Sequence[Op], session: int
) -> Plan | None:
    """Return the plan of a client that holds one session as its lease; None if it may not do that."""
    try:
        return plan(checks, wanted, seen, BINDINGS, {session})
    except (ConflictError, LeaseLostError, LimitError):
        return None


def stormy(model: Model, events: Sequence[object]) -> None:
    """Let others do what they do, each on what it sees."""
    for event in events:
        if isinstance(event, int):
            model.expire(event)
            continue
        assert isinstance(event, tuple)
        keys, wanted, session = event
        checks = [Check(key, (model.key(key) or (b"", 0, 0))[1]) for key in keys]
        made = planned(model, model.look(checks, wanted), checks, wanted, session)
        if made is not None:
            try:
                model.multi(made.steps, session)
            except RefusedError:
                pass  # such as a key under one with a lease


def alone(*wanted: Op, session: int = 7) -> tuple[list[str], list[Op], int]:
    return [], list(wanted), session


@settings(max_examples=300)
@given(storm, writes, storm)
# Two replace the same holder: the second finds a znode at the version that it has seen.
@example(
    [alone(Put("/d/a", b"1", "7"))],
    (["/d/a"], [Put("/d/a", b"2", "8")], 8),
    [alone(Put("/d/a", b"1", "8"), session=8)],
)
# A key goes, its znode comes again as the directory of another, and is then written.
@example(
    [alone(Put("/d/a", b"1"))],
    (["/d/a"], [Put("/d/a", b"2")], 7),
    [alone(Delete("/d/a")), alone(Put("/d/a/x", b"1")), alone(Put("/d/a", b"1"))],
)
def test_what_was_planned_happens_whole_on_what_was_seen_or_not_at_all(
    before: list[object], write: tuple[list[str], list[Op], int], meanwhile: list[object]
) -> None:
    model = Model()
    stormy(model, before)
    keys, wanted, session = write
    checks = [Check(key, (model.key(key) or (b"", 0, 0))[1]) for key in keys]
    made = planned(model, model.look(checks, wanted), checks, wanted, session)
    stormy(model, meanwhile)
    if made is None or not made.steps:
        return
    then = {key: model.key(key) for key in KEYS}
    try:
        model.multi(made.steps, session)
    except RefusedError:
        assert {key: model.key(key) for key in KEYS} == then
        return
    for check in checks:
        found = then[check.key]
        assert (found[1] if found else 0) == check.mod_revision
    expected = dict(then)
    for op in wanted:
        expected[op.key] = (
            (op.value, model.zxid, BINDINGS[op.lease] if op.lease else 0) if isinstance(op, Put) else None
        )
    assert {key: model.key(key) for key in KEYS} == expected


@settings(max_examples=100)
@given(storm, writes)
def test_what_is_planned_on_what_is_there_is_possible(
    before: list[object], write: tuple[list[str], list[Op], int]
) -> None:
    model = Model()
    stormy(model, before)
    _, wanted, session = write
    made = planned(model, model.look((), wanted), (), wanted, session)
    if made is None:
        return
    leased = {op.key for op in wanted if isinstance(op, Put) and op.lease}
    below = any(key != other and other.startswith(key + "/") for key in leased for other in KEYS)
    try:
        model.multi(made.steps, session)
    except RefusedError:
        # ZooKeeper's own rule: nothing below a key with a lease.
        assert below or any(znode.owner for znode in model.znodes.values())


def stat(**fields: int) -> Stat:
    return Stat(*(fields.get(name, 1 if name == "length" else 0) for name in Stat._fields))


def test_a_plan_is_as_small_as_it_can_be() -> None:
    seen = Seen(znodes={"/a/b": stat(mzxid=5, version=3)}, births={"/a": stat(version=9)}, missing={})
    made = plan([Check("/a/b", 5)], [Put("/a/b", b"v")], seen, {}, set())
    assert made == Plan((Verify("/a/%births", 9), Set("/a/b", b"v", 3)), None)
    seen.znodes["/a/b"] = None
    made = plan([], [Put("/a/b", b"v")], seen, {}, set())
    assert made == Plan((Create("/a/b"), Set("/a/%births", b"", -1), Set("/a/b", b"v", 0)), None)


def test_a_condition_that_does_not_hold_names_the_key_and_what_it_is_at() -> None:
    seen = Seen({"/a/b": stat(mzxid=5)}, {"/a": None}, {"/a": []})
    with pytest.raises(ConflictError, match="is at revision 5, not 4") as caught:
        plan([Check("/a/b", 4)], [Put("/a/b", b"")], seen, {}, set())
    assert (caught.value.key, caught.value.mod_revision) == ("/a/b", 5)


def test_a_directory_is_no_key() -> None:
    seen = Seen({"/a/b": stat(mzxid=5, length=0, children=1)}, {"/a": stat()}, {})
    assert seen.revision("/a/b") == 0
    assert plan([Check("/a/b", 0)], [Delete("/a/b")], seen, {}, set()).steps == ()


@pytest.mark.parametrize("owner", [0, -(2**63), -(2**56) + 60_000])
def test_containers_and_znodes_with_an_age_are_bound_to_nobody(owner: int) -> None:
    assert owner_of(stat(owner=owner)) == PERSISTENT


@pytest.mark.parametrize("session", [0x100002C5A480000, -0x6FFFFFFFFFFFFFFF, 1])
def test_a_session_has_one_lease_id(session: int) -> None:
    lease = lease_of(session)
    assert lease is not None
    assert session_of(lease) == session
    assert owner_of(stat(owner=session)) == session


@pytest.mark.parametrize("lease", ["", "0", "01", "xyz", "A1", "1-1", "1" * 17, "lasting-1"])
def test_nonsense_is_no_lease_id(lease: str) -> None:
    assert session_of(lease) is None
