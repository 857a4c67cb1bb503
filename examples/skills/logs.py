"""Log files: what each line is, and which messages are the same but for their numbers. Access logs, syslog, JSON lines."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

MAX_GROUPS = 10_000
_MOST = 2000  # characters of a line that are looked at: what is longer is data, and patterns take their time over it
_SEVERITIES = ("debug", "info", "warning", "error", "critical")
_ACCESS = re.compile(
    r'(?P<host>\S+) \S+ \S+ \[(?P<time>[^\]]+)\] "(?P<method>[A-Z]+) (?P<path>\S+)[^"]*" (?P<status>\d{3}) (?:\d+|-)'
)
_SYSLOG = re.compile(
    r"(?P<time>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) \S+ (?P<program>[\w./-]+)(?:\[\d+\])?: (?P<message>.*)"
)
_PLAIN = re.compile(r"(?P<time>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S*) (?P<level>[A-Z]+) (?P<message>.*)")
_WORDS = re.compile(
    r"\b(?:(panic|fatal|critical|out of memory|oom)"
    r"|(error|failed|failure|refused|denied|timed out|timeout)"
    r"|(warn\w*|retry\w*))\b",
    re.IGNORECASE,
)
# What differs between two messages of one kind, the special before the general.
_VARIES = (
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE), "<uuid>"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"), "<ip>"),
    (
        re.compile(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{6,}\b|\b0x[0-9a-f]+\b", re.IGNORECASE),
        "<hex>",
    ),
    (re.compile(r"\"[^\"]*\"|'[^']*'"), "<text>"),
    (re.compile(r"\d+(?:[.,]\d+)*"), "<n>"),
)


@dataclass
class Group:
    """Messages that are the same but for their numbers."""

    severity: str
    pattern: str
    count: int = 0
    first_line: int = 0
    first_time: str = ""
    last_time: str = ""
    example: str = ""


@dataclass
class Triage:
    """What a log says: how many lines of each severity, and the groups of messages, the gravest and commonest first."""

    lines: int = 0
    unread: int = 0
    severities: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_SEVERITIES, 0))
    groups: list[Group] = field(default_factory=list)

    def to_dict(self, top: int) -> dict[str, Any]:
        """Return it as JSON values, with the first `top` groups that are no mere information."""
        grave = [vars(group) for group in self.groups if group.severity not in ("debug", "info")]
        return {
            "lines": self.lines,
            "unread": self.unread,
            "severities": dict(self.severities),
            "errors": self.severities["error"] + self.severities["critical"],
            "worst": grave[0]["severity"] if grave else "info",
            "groups": grave[:top],
        }


def triage(text: str) -> Triage:
    """Sort a log."""
    result = Triage()
    groups: dict[tuple[str, str], Group] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        result.lines += 1
        read = _read(line[:_MOST])
        if read is None:
            result.unread += 1
            continue
        severity, time, message = read
        result.severities[severity] += 1
        key = (severity, _pattern(message))
        if key not in groups and len(groups) >= MAX_GROUPS:
            continue  # counted by severity still; that many kinds are noise
        group = groups.setdefault(key, Group(*key, first_line=number, first_time=time, example=message[:200]))
        group.count += 1
        group.last_time = time
    result.groups = sorted(groups.values(), key=lambda one: (-_SEVERITIES.index(one.severity), -one.count))
    return result


def _read(line: str) -> tuple[str, str, str] | None:
    """Return a line's severity, time and message; None if it is of no known form."""
    if line.startswith("{"):
        return _read_json(line)
    if (match := _ACCESS.match(line)) is not None:
        status = int(match["status"])
        severity = "error" if status >= 500 else "warning" if status >= 400 else "info"
        return (
            severity,
            match["time"],
            f"{match['method']} {match['path'].partition('?')[0]} -> HTTP {match['status']}",
        )
    if (match := _PLAIN.match(line)) is not None:
        return _severity(match["level"], match["message"]), match["time"], match["message"]
    if (match := _SYSLOG.match(line)) is not None:
        return _severity("", match["message"]), match["time"], f"{match['program']}: {match['message']}"
    return None


def _read_json(line: str) -> tuple[str, str, str] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    message = entry.get("message", entry.get("msg"))
    if not isinstance(message, str):
        return None
    level = str(entry.get("level", entry.get("severity", "")))
    return _severity(level, message), str(entry.get("time", entry.get("timestamp", ""))), message


def _severity(level: str, message: str) -> str:
    level = {"warn": "warning", "fatal": "critical", "notice": "info", "trace": "debug"}.get(
        level.lower(), level.lower()
    )
    if level in _SEVERITIES:
        return level
    match = _WORDS.search(message)
    return "info" if match is None else "critical" if match[1] else "error" if match[2] else "warning"


def _pattern(message: str) -> str:
    status = re.search(r"-> HTTP \d+$", message)  # that number says what happened
    head, tail = (message[: status.start()], status[0]) if status else (message, "")
    for expression, name in _VARIES:
        head = expression.sub(name, head)
    return (head + tail)[:300]
