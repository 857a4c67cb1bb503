"""How much work a JSON Schema can make: references followed, loops and explosions found before anything is
validated.

A schema without `$ref` is a tree: each part of it meets each part of the value at most once. References make
a graph of it, and forty definitions that each name the one before twice would take 2^40 steps. So what a
schema applies to one and the same value is counted when it is compiled, and a schema that refers back to
itself is counted along each value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeAlias
from urllib.parse import unquote

from roster.passport.words import Path, quote

MAX_IN_PLACE = 1_000
MAX_EXPANDED = 20_000
MAX_WORK = 200_000

Complaint: TypeAlias = tuple[Path, str]

_SAME_ONE = ("not", "if", "then", "else")
_SAME_LIST = ("allOf", "anyOf", "oneOf")
_CHILD_ONE = (
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "items",
    "contains",
    "unevaluatedItems",
)
_CHILD_MAP = ("properties", "patternProperties")
_DYNAMIC = ("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor")


class SchemaGraph:
    """The parts of one schema, and which applies which to what.

    Attributes:
        complaints: why the schema is refused; empty when it is not.
        bounded: no value can make it explode, so `work` need not be asked.
    """

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._anchors: dict[str, dict[str, Any]] = {}
        self._same: dict[int, list[dict[str, Any]]] = {}
        self._closures: dict[int, Counter[int]] = {}
        self._parts: dict[int, dict[str, Any]] = {}
        self._refs: dict[int, dict[str, Any]] = {}
        self.complaints: list[Complaint] = []
        found = list(self._references())
        self.bounded = not found
        for part, path, ref in found:
            target = self._resolve(ref)
            if target is None:
                message = (
                    f"the reference {quote(str(ref))} leads nowhere in this schema (others are never fetched)"
                )
                self.complaints.append(((*path, "$ref"), message))
            elif isinstance(target, dict):
                self._refs[id(part)] = target
        if found and not self.complaints:
            self._measure()

    def work(self, value: Any) -> int:
        """Count the steps that validating `value` can take, up to a little over `MAX_WORK`."""
        budget = [MAX_WORK]
        self._walk(value, Counter({id(self._root): 1}), budget)
        return MAX_WORK - budget[0]

    def _references(self) -> Iterator[tuple[dict[str, Any], Path, Any]]:
        stack: list[tuple[Any, Path]] = [(self._root, ())]
        while stack:
            part, path = stack.pop()
            if isinstance(part, list):
                stack.extend((item, (*path, index)) for index, item in enumerate(part))
            if not isinstance(part, dict):
                continue
            self._parts[id(part)] = part
            # A property may be named "$ref"; its value is then a schema and no text.
            if isinstance(part.get("$ref"), str):
                yield part, path, part["$ref"]
            if isinstance(anchor := part.get("$anchor"), str):
                self._anchors[anchor] = part
            if path and isinstance(part.get("$id"), str):
                self.complaints.append(((*path, "$id"), "an $id inside a schema is not supported: use $defs"))
            for word in _DYNAMIC:
                if isinstance(part.get(word), str | bool):
                    self.complaints.append(((*path, word), f"{word} is not supported: use $ref"))
            stack.extend((item, (*path, key)) for key, item in part.items() if key not in ("enum", "const"))

    def _resolve(self, ref: str) -> Any:
        if not ref.startswith("#"):
            return None
        pointer = unquote(ref[1:])
        if not pointer:
            return self._root
        if not pointer.startswith("/"):
            return self._anchors.get(pointer)
        at: Any = self._root
        for step in pointer[1:].split("/"):
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(at, dict) and step in at:
                at = at[step]
            elif isinstance(at, list) and step.isdecimal() and len(step) < 6 and int(step) < len(at):
                at = at[int(step)]
            else:
                return None
        return at if isinstance(at, dict | bool) else None

    def _in_place(self, part: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the parts that `part` applies to the same value."""
        known = self._same.get(id(part))
        if known is None:
            known = [self._refs[id(part)]] if id(part) in self._refs else []
            known += [inner for word in _SAME_ONE if isinstance(inner := part.get(word), dict)]
            for word in _SAME_LIST:
                if isinstance(several := part.get(word), list):
                    known += [inner for inner in several if isinstance(inner, dict)]
            if isinstance(several := part.get("dependentSchemas"), dict):
                known += [inner for inner in several.values() if isinstance(inner, dict)]
            self._same[id(part)] = known
        return known

    def _children(self, part: dict[str, Any]) -> list[dict[str, Any]]:
        out = [inner for word in _CHILD_ONE if isinstance(inner := part.get(word), dict)]
        for word in _CHILD_MAP:
            if isinstance(several := part.get(word), dict):
                out += [inner for inner in several.values() if isinstance(inner, dict)]
        if isinstance(several := part.get("prefixItems"), list):
            out += [inner for inner in several if isinstance(inner, dict)]
        return out

    def _measure(self) -> None:
        """Refuse loops in place and explosions in place; find out whether the whole is a bounded tree."""
        for part in self._parts.values():
            if self._closure(part, set()) is None:
                return
        sizes: dict[int, int | None] = {}
        size = self._expanded(self._root, sizes, set())
        self.bounded = size is not None and size <= MAX_EXPANDED

    def _closure(self, part: dict[str, Any], open_parts: set[int]) -> Counter[int] | None:
        """Return how often each part meets a value that `part` meets, or None after a complaint."""
        me = id(part)
        if me in self._closures:
            return self._closures[me]
        if me in open_parts:
            self.complaints.append(
                ((), "a $ref leads back to itself without stepping into the value: it could never end")
            )
            return None
        open_parts.add(me)
        out: Counter[int] = Counter({me: 1})
        for inner in self._in_place(part):
            below = self._closure(inner, open_parts)
            if below is None:
                return None
            out.update(below)
            if out.total() > MAX_IN_PLACE:
                message = (
                    f"its references apply more than {MAX_IN_PLACE} schemas to one value: make it simpler"
                )
                self.complaints.append(((), message))
                return None
        open_parts.discard(me)
        self._closures[me] = out
        return out

    def _expanded(
        self, part: dict[str, Any], sizes: dict[int, int | None], open_parts: set[int]
    ) -> int | None:
        """Return the size of the tree with references written out, or None where it has no end."""
        me = id(part)
        if me in sizes:
            return sizes[me]
        if me in open_parts:
            return None
        open_parts.add(me)
        total: int | None = 1
        for inner in (*self._in_place(part), *self._children(part)):
            below = self._expanded(inner, sizes, open_parts)
            total = None if total is None or below is None else min(total + below, MAX_EXPANDED + 1)
        open_parts.discard(me)
        sizes[me] = total
        return total

    def _walk(self, value: Any, applied: Counter[int], budget: list[int]) -> None:
        full: Counter[int] = Counter()
        for me, times in applied.items():
            for other, count in self._closures[me].items():
                full[other] += times * count
        budget[0] -= full.total()
        if budget[0] < 0:
            return
        if isinstance(value, dict):
            children = [(self._for_key(full, key), item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            children = [(self._for_index(full, index), item) for index, item in enumerate(value)]
        else:
            return
        for below, item in children:
            if below:
                self._walk(item, below, budget)
            if budget[0] < 0:
                return

    def _for_key(self, full: Counter[int], key: Any) -> Counter[int]:
        out: Counter[int] = Counter()
        for me, times in full.items():
            part = self._parts[me]
            named = part.get("properties")
            named = named if isinstance(named, dict) else {}
            found = [named[key]] if key in named else [part.get("additionalProperties")]
            found.append(part.get("unevaluatedProperties"))
            if isinstance(patterns := part.get("patternProperties"), dict):
                found += patterns.values()
            for inner in found:
                if isinstance(inner, dict):
                    out[id(inner)] += times
        return out

    def _for_index(self, full: Counter[int], index: int) -> Counter[int]:
        out: Counter[int] = Counter()
        for me, times in full.items():
            part = self._parts[me]
            prefix = part.get("prefixItems")
            first = prefix[index] if isinstance(prefix, list) and index < len(prefix) else part.get("items")
            for inner in (first, part.get("contains"), part.get("unevaluatedItems")):
                if isinstance(inner, dict):
                    out[id(inner)] += times
        return out
