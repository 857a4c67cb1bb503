"""Read-only faces over plain JSON values: a passport reads like a dict and cannot be changed like one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload


def view(value: Any) -> Any:
    """Return `value` itself when nothing in it can change, else a read-only face over it."""
    if isinstance(value, dict):
        return MapView(value)
    if isinstance(value, list):
        return ListView(value)
    return value


class MapView(Mapping[str, Any]):
    """A dict that cannot be changed through this face, at any depth."""

    __slots__ = ("_data",)

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    def __getitem__(self, key: str) -> Any:
        return view(self._data[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, MapView):
            return self._data == other._data
        if isinstance(other, Mapping):
            return len(other) == len(self._data) and all(
                key in other and view(value) == other[key] for key, value in self._data.items()
            )
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by content, and the content may be large

    def __repr__(self) -> str:
        return repr(self._data)


class ListView(Sequence[Any]):
    """A list that cannot be changed through this face, at any depth."""

    __slots__ = ("_data",)

    def __init__(self, data: list[Any]) -> None:
        self._data = data

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> ListView: ...
    def __getitem__(self, index: int | slice) -> Any:
        return view(self._data[index])

    def __len__(self) -> int:
        return len(self._data)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ListView):
            return self._data == other._data
        if isinstance(other, list | tuple):
            return len(other) == len(self._data) and all(
                view(mine) == theirs for mine, theirs in zip(self._data, other, strict=True)
            )
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as MapView

    def __repr__(self) -> str:
        return repr(self._data)
