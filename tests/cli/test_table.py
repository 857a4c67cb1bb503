"""Tables fit a terminal, and stay whole in a pipe."""

from __future__ import annotations

from roster.cli.table import Column, Table, cells

_COLUMNS = [
    Column("NAME"),
    Column("STATE", paint=lambda cell: "32"),
    Column("WORDS", gives_way=True),
    Column("AGE"),
]
_ROW = ["writer-001", "ready", "alpha,beta,gamma,delta,epsilon,zeta,eta", "3s"]


def _table(width: int | None = None, *, colour: bool = False) -> Table:
    return Table(_COLUMNS, [_ROW], width=width, colour=colour)


def test_in_a_pipe_nothing_is_cut_and_columns_are_parted_by_spaces() -> None:
    table = _table()

    assert table.header().split() == ["NAME", "STATE", "WORDS", "AGE"]
    assert table.lines()[0].split() == _ROW


def test_columns_stand_below_each_other_also_with_wide_characters() -> None:
    table = Table([Column("A"), Column("B")], [["日本", "x"], ["plain", "y"]], width=None, colour=False)

    first, second = table.lines()
    assert cells(first[: first.index("x")]) == cells(second[: second.index("y")])


def test_on_a_narrow_terminal_the_columns_that_give_way_are_cut() -> None:
    table = _table(50)

    line = table.lines()[0]
    assert cells(line) <= 50
    assert "writer-001" in line
    assert "…" in line
    assert line.endswith("3s")


def test_on_a_terminal_that_is_far_too_narrow_names_stay_whole() -> None:
    assert "writer-001" in _table(10).lines()[0]


def test_wide_characters_are_cut_within_the_width() -> None:
    table = Table([Column("A", gives_way=True)], [["日本語日本語日本語"]], width=10, colour=False)

    assert cells(table.lines()[0]) <= 10


def test_colour_is_around_the_cell_and_not_in_its_width() -> None:
    plain, painted = _table().lines()[0], _table(colour=True).lines()[0]

    assert "\x1b[32mready\x1b[0m" in painted
    assert painted.replace("\x1b[32m", "").replace("\x1b[0m", "") == plain


def test_an_empty_cell_does_not_shift_the_columns() -> None:
    table = Table([Column("A"), Column("B")], [["", "x"]], width=None, colour=False)

    assert table.lines()[0].split() == ["<none>", "x"]


def test_a_later_row_that_is_wider_pushes_the_others() -> None:
    assert _table().line(["a-much-longer-name-than-before", "busy", "w", "1s"]).split() == [
        "a-much-longer-name-than-before", "busy", "w", "1s",
    ]  # fmt: skip


def test_cells_are_made_safe() -> None:
    table = Table([Column("A")], [["\x1b[2J[red]x"]], width=None, colour=False)

    assert table.lines() == ["\\x1b[2J[red]x"]
