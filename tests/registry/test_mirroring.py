"""The rules of a migration, without any store."""

from __future__ import annotations

import json

import pytest

from roster.registry.keys import node_key, status_key
from roster.registry.mirroring import (
    Image,
    Unit,
    View,
    Write,
    decide,
    keys_of,
    mirrored,
    mirrored_from,
    unit_of,
)
from roster.registry.status import MAX_STATUS_BYTES, NodeStatus
from roster.store import Change, Entry

KEY, STATUS = node_key("default", "n-1"), status_key("default", "n-1")
VIEW = View(name="here", live=True, leases={"long": "L", "live": "S"})


def entry(key: str, value: bytes, revision: int = 1, lease: str | None = None) -> Entry:
    return Entry(key, value, 1, revision, lease)


def document(uid: str = "", note: str = "") -> bytes:
    metadata = {"name": "n-1", "annotations": {"note": note}} | ({"uid": uid} if uid else {})
    made = {"apiVersion": "ai-team.dev/v1", "kind": "NodePassport", "metadata": metadata, "spec": {}}
    return json.dumps(made).encode()


@pytest.mark.parametrize(
    "key", [KEY, STATUS, "/ai-team/else", "/ai-team/nodes/a/b/c", "/ai-team/status/A/b", "/ai-team/nodes/"]
)
def test_every_key_belongs_to_one_unit(key: str) -> None:
    unit = unit_of(key)

    assert key in keys_of(unit)
    assert (unit == "default/n-1") is (key in (KEY, STATUS))


def test_a_late_watch_does_not_bring_an_older_state_back() -> None:
    image = Image()
    image.put(entry(KEY, b"new", revision=9))

    assert image.apply([Change("put", KEY, 5, b"old"), Change("delete", KEY, 6)]) == set()
    assert image.get("default/n-1").document == entry(KEY, b"new", revision=9)
    assert image.apply([Change("put", STATUS, 5, b"s"), Change("delete", KEY, 10)]) == {"default/n-1"}
    assert image.get("default/n-1") == Unit(None, Entry(STATUS, b"s", 0, 5))


def test_an_older_listing_takes_nothing_newer_away() -> None:
    image = Image()
    image.put(entry(KEY, b"new", revision=9))
    image.put(entry("/ai-team/gone", b"old", revision=2))

    assert image.replace([entry(KEY, b"old", revision=3)], 5) == {"/ai-team/gone"}
    assert image.get("default/n-1").document == entry(KEY, b"new", revision=9)
    assert image.get("/ai-team/gone") == Unit()


def test_a_mirrored_status_is_not_mirrored_on() -> None:
    once = mirrored(entry(STATUS, NodeStatus("u").encode()), "here")
    assert once is not None
    assert mirrored_from(entry(STATUS, once)) == "here"
    assert mirrored(entry(STATUS, once), "there") is None


@pytest.mark.parametrize("value", [b"{", b"[]", b'{"uid": 1}', b"x" * 20_000, b'{"uid": "' + b"\xff" + b'"}'])
def test_a_status_that_cannot_be_read_is_not_mirrored(value: bytes) -> None:
    assert mirrored(entry(STATUS, value), "here") is None
    assert mirrored_from(entry(STATUS, value)) == ""


def test_a_status_that_the_mark_would_make_too_long_is_not_mirrored() -> None:
    filled = NodeStatus("u").encode()[:-1] + b', "x": "' + b"y" * (MAX_STATUS_BYTES - 120) + b'"}'
    assert len(filled) <= MAX_STATUS_BYTES
    assert mirrored(entry(STATUS, filled), "h" * 100) is None


def test_unknown_fields_of_a_status_are_mirrored() -> None:
    value = NodeStatus("u").encode()[:-1] + b', "x-more": [1]}'
    made = mirrored(entry(STATUS, value), "here")
    assert made is not None
    assert json.loads(made)["x-more"] == [1]


@pytest.mark.parametrize(
    ("value", "lease", "live", "bond"),
    [
        (document("u"), "l", False, "long"),
        (document("u"), None, False, "long"),
        (document(), None, True, "none"),
        (document(), "l", True, "live"),
        (document(), "l", False, "none"),
        (b"{nope", "l", True, "long"),
        (b"{nope", None, True, "none"),
    ],
)
def test_each_kind_of_document_gets_its_lease(value: bytes, lease: str | None, live: bool, bond: str) -> None:
    view = View(name="here", live=live, leases=VIEW.leases)
    plan = decide("default/n-1", Unit(entry(KEY, value, lease=lease)), Unit(), view)

    assert plan.steps == (Write(KEY, value, bond),)  # type: ignore[arg-type]  # one of the three
    assert bool(plan.fault) is (value == b"{nope")


@pytest.mark.parametrize(
    "target",
    [
        Unit(entry(KEY, document("other")), entry(STATUS, NodeStatus("other").encode(), lease="theirs")),
        Unit(entry(KEY, document("u")), entry(STATUS, b"{unreadable", lease="theirs")),
        Unit(entry(KEY, document()), entry(STATUS, NodeStatus("u", mirrored_from="elsewhere").encode())),
        Unit(entry(KEY, document(note="founding-style"), lease="theirs")),
    ],
)
def test_whoever_lives_in_the_target_is_left_alone(target: Unit) -> None:
    source = Unit(entry(KEY, document("u")), entry(STATUS, NodeStatus("u").encode()))

    assert decide("default/n-1", source, target, VIEW).verdict == "theirs"
    assert decide("default/n-1", source, target, VIEW).steps == ()
    assert decide("default/n-1", Unit(), target, VIEW).steps == ()


def test_what_vanished_is_taken_away_only_where_it_is_the_copy() -> None:
    copy, other = Unit(entry(KEY, document("u"))), Unit(entry(KEY, document("v")))
    gone = View(name="here", live=False, leases=VIEW.leases, gone=document("u"))

    assert decide("default/n-1", Unit(), copy, gone).verdict == "remove"
    assert decide("default/n-1", Unit(), other, gone).verdict == "nothing"
    assert decide("default/n-1", Unit(), copy, VIEW).verdict == "nothing"
