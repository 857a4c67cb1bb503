"""The small status document beside a passport: who holds the name, its state and its load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from roster.errors import DocumentError, Fault
from roster.registry.holder import Holder
from roster.registry.stored import load_object

STATES = ("starting", "ready", "busy", "draining", "offline")
LIVE_STATES = frozenset(STATES) - {"offline"}
HEALTHY_STATES = frozenset({"ready", "busy"})

MAX_STATUS_BYTES = 16 * 1024
MAX_CONDITIONS = 32
MAX_WITHDRAWN = 256
MAX_COUNT = 2**53  # what every JSON reader keeps exactly
_MAX_TEXT = 1024
_TEXTS = ("uid", "registered_at", "updated_at", "challenge", "mirrored_from")
_COUNTS = {"active_tasks": 0, "capacity": 1, "seq": 0}


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing worth knowing about a node, as in Kubernetes.

    Attributes:
        type: a word such as `Responsive`.
        status: `True`, `False` or `Unknown`.
        reason: one CamelCase word for machines.
        message: a sentence for people.
        since: RFC 3339 UTC time of the last change of `status`, for people; empty where nobody noted it.
    """

    type: str
    status: str
    reason: str = ""
    message: str = ""
    since: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return it as Kubernetes spells it, for documents."""
        said = {
            "type": self.type,
            "status": self.status,
            "reason": self.reason,
            "message": self.message,
        }
        if self.since:
            said["lastTransitionTime"] = self.since
        return said


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What a node says of itself while its lease lives.

    Attributes:
        uid: the incarnation; it belongs to the passport with the same `metadata.uid`, and to no other.
        state: `starting`, `ready`, `busy` or `draining`.
        active_tasks: commands running now.
        capacity: how many may run at once; 0 means that it takes none.
        seq: rises with each report of this incarnation.
        ttl: seconds of its lease.
        holder: the process, if it said.
        conditions: those that differ from what is usual.
        withdrawn: capabilities of the passport that it does not offer at present.
        registered_at: RFC 3339 UTC time of the registration, for people.
        updated_at: RFC 3339 UTC time of this report, for people.
        challenge: who asks whether the holder lives (see `claim`); the holder answers by writing again
            without it.
        mirrored_from: the registry in which the node lives, where `roster migrate --follow` wrote this for it. Whoever
            registers under the name replaces it at once.
    """

    uid: str
    state: str = "ready"
    active_tasks: int = 0
    capacity: int = 1
    seq: int = 0
    ttl: float = 30.0
    holder: Holder | None = None
    conditions: tuple[Condition, ...] = ()
    withdrawn: tuple[str, ...] = ()
    registered_at: str = ""
    updated_at: str = ""
    challenge: str = field(default="", compare=False)
    mirrored_from: str = ""

    def encode(self) -> bytes:
        """Return it as JSON; what is usual is left out."""
        data: dict[str, Any] = {
            "uid": self.uid,
            "state": self.state,
            "active_tasks": self.active_tasks,
            "capacity": self.capacity,
            "seq": self.seq,
            "ttl": self.ttl,
        }
        if self.holder is not None:
            data["holder"] = self.holder.to_dict()
        if self.conditions:
            data["conditions"] = [condition.to_dict() for condition in self.conditions]
        if self.withdrawn:
            data["withdrawn"] = list(self.withdrawn)
        for name in ("registered_at", "updated_at", "challenge", "mirrored_from"):
            if value := getattr(self, name):
                data[name] = value
        return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, value: bytes, source: str) -> NodeStatus:
        """Read a status as the store has it, trusting nothing.

        Args:
            value: the stored bytes.
            source: what to call it in an error, its key.

        Raises:
            DocumentError: it is not a status document.
        """
        data = load_object(value, source, MAX_STATUS_BYTES)
        faults: list[Fault] = []
        for name in _TEXTS:
            text = data.setdefault(name, "")
            if not isinstance(text, str) or len(text) > _MAX_TEXT or (not text and name == "uid"):
                faults.append(Fault(name, f"expected text of at most {_MAX_TEXT} characters"))
        for name, default in _COUNTS.items():
            count = data.setdefault(name, default)
            if type(count) is not int or not 0 <= count <= MAX_COUNT:
                faults.append(Fault(name, "expected a whole number from 0"))
        state = data.get("state", "ready")
        if state not in STATES:
            faults.append(Fault("state", f"expected one of {', '.join(STATES)}"))
        ttl = data.get("ttl", 30.0)
        if type(ttl) not in (int, float) or not 0 < ttl <= 1e7:
            faults.append(Fault("ttl", "expected seconds above 0"))
            ttl = 30.0
        status = cls(
            uid=data["uid"],
            state=state,
            active_tasks=data["active_tasks"],
            capacity=data["capacity"],
            seq=data["seq"],
            ttl=float(ttl),
            holder=Holder.from_dict(data.get("holder")),
            conditions=tuple(_conditions(data.get("conditions", []), faults)),
            withdrawn=_words(data.get("withdrawn", []), faults),
            registered_at=data["registered_at"],
            updated_at=data["updated_at"],
            challenge=data["challenge"],
            mirrored_from=data["mirrored_from"],
        )
        if faults:
            raise DocumentError(source, faults)
        return status


def _words(found: object, faults: list[Fault]) -> tuple[str, ...]:
    if (
        isinstance(found, list)
        and len(found) <= MAX_WITHDRAWN
        and all(isinstance(word, str) and len(word) <= _MAX_TEXT for word in found)
    ):
        return tuple(found)
    faults.append(Fault("withdrawn", f"expected a list of at most {MAX_WITHDRAWN} names"))
    return ()


def _conditions(found: object, faults: list[Fault]) -> list[Condition]:
    out: list[Condition] = []
    if not isinstance(found, list) or len(found) > MAX_CONDITIONS:
        faults.append(Fault("conditions", f"expected a list of at most {MAX_CONDITIONS} conditions"))
        return out
    for number, item in enumerate(found):
        if not isinstance(item, Mapping):
            faults.append(Fault(f"conditions[{number}]", "expected an object"))
            continue
        texts = [item.get(name, "") for name in ("type", "status", "reason", "message", "lastTransitionTime")]
        if not all(isinstance(text, str) and len(text) <= _MAX_TEXT for text in texts) or not texts[0]:
            faults.append(Fault(f"conditions[{number}]", "expected type, status, reason and message as text"))
            continue
        out.append(Condition(*texts))
    return out
