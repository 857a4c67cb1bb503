"""What is due next among many keys."""

from __future__ import annotations

from roster.registry.due import Due


def test_the_first_comes_first_whatever_was_put_off_dropped_or_brought_forward() -> None:
    due = Due()
    assert (due.next, due.take(1e9)) == (None, None)
    for key, when in (("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", 4.0)):
        due.set(key, when)
    due.set("a", 2.5)
    due.drop("b")
    due.set("d", 1.5)
    assert (due.next, "b" in due, due.take(1.4)) == (1.5, False, None)
    assert [due.take(2.6), due.take(2.6), due.take(2.6)] == ["d", "a", None]
    due.put_off(lambda key: 9.0)
    assert (due.next, due.take(9.0), due.next) == (9.0, "c", None)
