"""Compares what a store acknowledged with what was heard of it: nothing missed, nothing twice, all in order."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from roster.registry.keys import STATUS
from roster.store import Entry

Line = dict[str, Any]

# A state that was there for so many seconds, while the server could be followed, is one that a watch of grade `state` shows.
LASTING = 2.0


@dataclass(slots=True)
class Verdict:
    """What a watch told of a store's changes.

    Attributes:
        expected: changes that had to be heard.
        missed: those of them that were not.
        twice: changes that were heard again.
        disordered: changes that were heard after a later one.
    """

    expected: int = 0
    missed: list[object] = field(default_factory=list)
    twice: list[object] = field(default_factory=list)
    disordered: list[object] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.expected} / {len(self.missed)} missed / {len(self.twice)} twice / {len(self.disordered)} out of order"
        worst = [*self.missed[:2], *self.twice[:2], *self.disordered[:2]]
        return f"{text} {worst}" if worst else text

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.missed or self.twice or self.disordered)


def every_change(acknowledged: Iterable[Line], heard: Iterable[Line]) -> Verdict:
    """Hold a raw watch of grade `history` against the writes: each of them exactly once, all in order."""
    changes = [(line["revision"], line["key"]) for line in heard if line["what"] == "seen"]
    times = Counter(changes)
    wanted = [(line["revision"], key) for line in acknowledged for key in (*line["puts"], *line["deletes"])]
    return Verdict(
        expected=len(wanted),
        missed=[change for change in wanted if not times[change]],
        twice=[change for change, count in times.items() if count > 1],
        disordered=[later for before, later in itertools.pairwise(changes) if later[0] < before[0]],
    )


def last_states(truth: Sequence[Entry], heard: Iterable[Line]) -> Verdict:
    """Hold a raw watch of grade `state` against the store as it is at the end: each key's last state, per key in order."""
    verdict = Verdict(expected=len(truth))
    view: dict[str, int] = {}
    for line in heard:
        if line["what"] == "listing":
            verdict.disordered += [key for key, at in line["keys"].items() if at < view.get(key, 0)]
            view = dict(line["keys"])
        elif line["what"] == "seen":
            key, revision = line["key"], line["revision"]
            known = view.get(key, 0)
            if line["gone"]:
                verdict.twice += [] if known else [(revision, key)]
                view.pop(key, None)
            else:
                verdict.twice += [(revision, key)] if revision == known else []
                verdict.disordered += [(revision, key)] if revision < known else []
                view[key] = revision
    is_so = {entry.key: entry.mod_revision for entry in truth}
    verdict.missed = [key for key in sorted(is_so.keys() | view.keys()) if is_so.get(key) != view.get(key)]
    return verdict


def of_informer(
    lines: Iterable[Line], heard: Iterable[Line], followed: Sequence[tuple[float, float]] | None
) -> Verdict:
    """Hold an informer's events against the reports of nodes that the store acknowledged.

    Args:
        lines: what the nodes wrote.
        heard: what the informer's process wrote.
        followed: from when to when the server could be followed: only reports that were true long enough in one of
            these times count. None: every report counts.
    """
    lines = list(lines)
    tries: dict[str, list[float]] = {}
    for line in lines:
        for key in line["keys"] if line["what"] == "try" else ():
            tries.setdefault(key, []).append(line["at"])
    events = [line for line in heard if line["what"] == "event"]
    verdict = Verdict()
    told = {(event["uid"], event["seq"]) for event in events}
    for line in lines:
        if line["what"] != "ack" or not line["reported"]:
            continue
        if followed is not None:
            key = next(key for key in line["puts"] if key.startswith(STATUS))
            until = min((at for at in tries[key] if at > line["at"]), default=float("inf"))
            if not any(min(until, end) - max(line["at"], begin) >= LASTING for begin, end in followed):
                continue
        for uid, seq in line["reported"]:
            verdict.expected += 1
            if (uid, seq) not in told:
                verdict.missed.append((line["revision"], uid, seq))
    fields = ("type", "name", "uid", "seq", "state", "revision")
    times = Counter(tuple(event[name] for name in fields) for event in events)
    verdict.twice = [event for event, count in times.items() if count > 1]
    newest: dict[str, int] = {}
    for event in events:
        if event["revision"] < newest.get(event["name"], 0):
            verdict.disordered.append((event["name"], event["revision"]))
        newest[event["name"]] = event["revision"]
    return verdict
