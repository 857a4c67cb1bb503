"""What a node has in its hands: order, limits, counts."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from roster.bus import Message
from roster.node.hands import Hands, Stage, Work


class Sender:
    """As much of a delivery as counting needs."""

    def __init__(self, sender: int) -> None:
        self.sender = sender


def work(priority: int = 0, sender: int = 1, *, solo: bool = False) -> Work:
    anything = cast(Any, None)
    return Work(
        delivery=cast(Any, Sender(sender)),
        message=Message.command("work", {}, priority=priority),
        handler=anything,
        context=anything,
        handling=anything,
        solo=solo,
    )


def test_higher_priority_runs_first_and_equals_run_in_order_of_arrival() -> None:
    hands = Hands(1)
    works = [work(0), work(5), work(9), work(5)]
    for one in works:
        hands.take(one)
    order = []
    while (following := hands.next()) is not None:
        order.append(works.index(following))
        hands.drop(following)
    assert order == [2, 1, 3, 0]


def test_no_more_run_at_once_than_the_capacity() -> None:
    hands = Hands(2)
    for _ in range(3):
        hands.take(work())
    first = hands.next()
    assert first is not None
    assert hands.next() is not None
    assert hands.next() is None
    hands.drop(first)
    assert hands.next() is not None


def test_what_waits_can_be_taken_back_before_it_starts() -> None:
    hands = Hands(1)
    first, second, third = work(), work(), work()
    for one in (first, second, third):
        hands.take(one)
    assert hands.next() is first
    assert hands.drop(second)
    assert not hands.drop(second)
    hands.drop(first)
    assert hands.next() is third


def test_what_a_held_sender_sent_waits_and_keeps_its_place() -> None:
    hands = Hands(3)
    works = [work(5, sender=1), work(0, sender=2), work(9, sender=1)]
    for one in works:
        hands.take(one)
    assert hands.next({1}) is works[1]
    assert hands.next({1}) is None
    assert hands.next() is works[2]
    assert hands.next() is works[0]


def test_what_must_be_alone_starts_when_nothing_else_is_in_hand() -> None:
    hands = Hands(3)
    before, alone, held = work(), work(9, solo=True), work(sender=2)
    hands.take(before)
    assert hands.next() is before
    hands.take(alone)
    hands.take(held)
    assert hands.next({2}) is None
    hands.drop(before)
    assert hands.next({2}) is None, "another waits that may not start yet"
    assert hands.next() is held
    assert hands.next() is None
    hands.drop(held)
    hands.beside = 1
    assert hands.next() is None
    hands.beside = 0
    assert hands.next() is alone


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(["take", "next", "drop"]), st.integers(0, 9), st.integers(0, 3))),
)
def test_counts_always_add_up(capacity: int, steps: list[tuple[str, int, int]]) -> None:
    hands = Hands(capacity)
    held: list[Work] = []
    for step, number, sender in steps:
        if step == "take" and not hands.full:
            held.append(work(number, sender))
            hands.take(held[-1])
        elif step == "next":
            hands.next()
        elif step == "drop" and held:
            hands.drop(held.pop(number % len(held)))
        assert hands.active == len(held) <= capacity + max(2, capacity)
        assert len(hands.running) <= capacity
        assert hands.waiting == sum(one.stage is Stage.WAITING for one in held)
        assert sum(hands.of(sender) for sender in range(4)) == len(held)
        assert set(hands.everything()) == set(held)
