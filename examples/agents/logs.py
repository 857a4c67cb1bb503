"""An agent that reads log files: what happened, how often, how bad it is."""

from __future__ import annotations

import os
from typing import Any

from examples.agents.starting import main, refusing
from examples.skills import logs
from roster import Node


def make(passport: str | os.PathLike[str]) -> Node:
    """Return the node of a passport."""
    node = Node.load(passport)

    @node.capability("triage_log")
    def triage_log(text: str, name: str, top: int = 5) -> dict[str, Any]:
        return {"name": name, **logs.triage(text).to_dict(top)}

    @node.capability("weigh_logs")
    def weigh_logs(logs: list[dict[str, Any]], before: dict[str, Any] | None = None) -> dict[str, Any]:
        with refusing():
            try:
                errors = sum(int(log["errors"]) for log in logs)
                return {
                    "looks": int((before or {}).get("looks", 0)) + 1,
                    "worse": errors > int((before or {}).get("errors", 0)),
                    "lines": sum(int(log["lines"]) for log in logs),
                    "errors": errors,
                    "critical": sum(int(log["severities"]["critical"]) for log in logs),
                    "unread": sum(int(log["unread"]) for log in logs),
                    "by_log": [
                        {name: log[name] for name in ("name", "lines", "errors", "worst")} for log in logs
                    ],
                    "groups": [
                        {
                            "log": log["name"],
                            **{name: group[name] for name in ("severity", "count", "first_line", "pattern")},
                        }
                        for log in logs
                        for group in log["groups"]
                    ],
                }
            except (KeyError, TypeError) as error:
                raise ValueError(
                    f"logs: what triage_log returns, before: what this returned; found {error!r}"
                ) from error

    return node


if __name__ == "__main__":
    main(make, "logs-001.yaml")
