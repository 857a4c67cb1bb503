"""The rules that remember: what passed once passes again, and nothing else does."""

from __future__ import annotations

import json
from datetime import date

import pytest

from roster.errors import DocumentError
from roster.passport import NodePassport
from roster.passport.rules import Number, Remembered, Report, fingerprint


def stored(*capabilities: object) -> bytes:
    return json.dumps(
        {
            "apiVersion": "ai-team.dev/v1",
            "kind": "NodePassport",
            "metadata": {"name": "n"},
            "spec": {"capabilities": list(capabilities)},
        }
    ).encode()


def test_what_is_wrong_is_found_each_time_also_beside_what_has_passed() -> None:
    good, bad = {"name": "write"}, {"name": "edit", "timeout": True}
    for _ in range(2):
        NodePassport.from_stored(stored(good))
        with pytest.raises(DocumentError, match="timeout"):
            NodePassport.from_stored(stored(good, bad))
        with pytest.raises(DocumentError, match="twice"):
            NodePassport.from_stored(stored(good, good))


def test_the_mark_of_capabilities_is_theirs_and_the_versions() -> None:
    one, same, other = (
        NodePassport.from_stored(stored({"name": "write", "timeout": timeout})) for timeout in (1, 1, 2)
    )
    assert one.capabilities_mark == same.capabilities_mark != other.capabilities_mark


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, 1.0), ("1", 1), ([], {}), (None, False)])
def test_values_that_python_calls_equal_or_alike_have_different_fingerprints(
    one: object, other: object
) -> None:
    assert fingerprint([one]) != fingerprint([other])


def test_equal_values_have_one_fingerprint_whichever_objects_they_are_made_of() -> None:
    text = "long enough not to be shared"
    assert fingerprint([text, text]) == fingerprint(json.loads(json.dumps([text, text])))


def test_what_has_no_fingerprint_is_judged_each_time() -> None:
    deep: object = 0
    for _ in range(3000):
        deep = [deep]
    assert fingerprint(deep) == b""
    assert fingerprint(date(2026, 1, 1)) == b""
    rule = Remembered(Number(0, 1))
    for _ in range(2):
        report = Report(lenient=True)
        rule.check(date(2026, 1, 1), (), report)
        assert report.faults
