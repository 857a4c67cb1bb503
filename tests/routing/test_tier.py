"""A tier keeps every member in the list of its load, whatever comes and goes."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from roster.routing import Seat, Tier
from roster.routing.load import rank_of


def seat(order: int, active: int, capacity: int, *, out: bool = False) -> Seat[str]:
    name = f"default/n{order}"
    return Seat(name, name, order, rank_of(active, capacity), max(0, capacity - active), out=out)


def assert_whole(tier: Tier[str]) -> None:
    """The tier's lists, counts and flags agree with its members, and slots with places."""
    levels, ranks = tier._levels, tier._ranks
    assert ranks == sorted(set(ranks))
    assert set(ranks) == set(levels)
    placed = {}
    for rank, level in levels.items():
        assert level.rank == rank
        assert level.seats
        for slot, member in enumerate(level.seats):
            assert member.slot == slot
            assert member.level is level
            assert member.rank == rank
            placed[member.order] = member
    for order, member in tier.members.items():
        assert member.order == order
        assert member.tier is tier
        in_use = tier.panic or not member.out
        assert (order in placed) == (in_use and member.spare > 0) == member.open
    assert len(placed) == sum(member.open for member in tier.members.values())
    assert tier.out == sum(member.out for member in tier.members.values())
    assert tier.panic == (tier.out > 0 and 2 * (len(tier.members) - tier.out) < len(tier.members))
    assert tier.room == sum(member.spare for member in tier.candidates())


steps = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "place", "out", "in"]),
        st.integers(0, 7),
        st.integers(0, 6),
        st.integers(0, 6),
    ),
    max_size=120,
)


@given(steps)
def test_random_changes_leave_it_whole(changes: list[tuple[str, int, int, int]]) -> None:
    tier: Tier[str] = Tier()
    loads: dict[int, tuple[int, int]] = {}
    for what, order, active, capacity in changes:
        member = tier.members.get(order)
        if what == "join" and member is None:
            tier.join(seat(order, active, capacity, out=active == 3))
            loads[order] = (active, capacity)
        elif what == "place" and member is not None:
            tier.place(member, rank_of(active, capacity), max(0, capacity - active))
            loads[order] = (active, capacity)
        elif what == "leave" and member is not None:
            tier.leave(member)
            assert member.tier is None
            assert not member.open
            del loads[order]
        elif what in ("out", "in") and member is not None:
            tier.eject(member, out=what == "out")
        assert_whole(tier)
        open_loads = {m.order: Fraction(*loads[m.order]) for m in tier.members.values() if m.open}
        least = min(open_loads.values(), default=None)
        assert {m.order for m in tier.best()} == {o for o, found in open_loads.items() if found == least}
        in_order = [Fraction(*loads[level[0].order]) for level in tier.levels()]
        assert in_order == sorted(in_order)


def test_equal_loads_of_different_capacities_share_a_list() -> None:
    tier: Tier[str] = Tier()
    for order, (active, capacity) in enumerate([(1, 3), (2, 6), (10, 30), (1, 2)]):
        tier.join(seat(order, active, capacity))
    assert {member.order for member in tier.best()} == {0, 1, 2}


def test_half_may_be_ejected_and_one_always() -> None:
    for size, most in [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (10, 5)]:
        tier: Tier[str] = Tier()
        for order in range(size):
            tier.join(seat(order, 0, 1))
        ejected = 0
        while tier.may_eject(0.5):
            tier.eject(tier.members[ejected], out=True)
            ejected += 1
        assert ejected == most, size
        assert tier.panic == (size == 1)


def test_ejection_is_ignored_while_fewer_than_half_would_be_left() -> None:
    tier: Tier[str] = Tier()
    for order in range(4):
        tier.join(seat(order, 0, 1, out=order < 2))
    assert {member.order for member in tier.best()} == {2, 3}
    tier.leave(tier.members[3])
    assert {member.order for member in tier.best()} == {0, 1, 2}
    tier.join(seat(4, 0, 1))
    assert {member.order for member in tier.best()} == {2, 4}
