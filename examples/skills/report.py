"""Parts into one Markdown report: headings, paragraphs, lists and tables, with whatever the parts hold escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|])")


def report(title: str, sections: Sequence[Mapping[str, Any]]) -> str:
    """Return a report.

    Args:
        title: its heading.
        sections: `heading`, and `body`: text, a list of texts or of maps (a table), or a map (a list of its fields).

    Raises:
        ValueError: a section has no heading, or a body that is none of these.
    """
    blocks = [f"# {_escape(title)}"]
    for section in sections:
        heading, body = section.get("heading"), section.get("body")
        if not isinstance(heading, str) or not heading.strip():
            raise ValueError("a section has a heading, which is text")
        blocks += [f"## {_escape(heading)}", _body(heading, body)]
    return "\n\n".join(blocks) + "\n"


def _body(heading: str, body: Any) -> str:
    if isinstance(body, str):
        return "\n\n".join(_escape(part) for part in body.split("\n\n") if part.strip()) or "Nothing."
    if isinstance(body, Mapping):
        return "\n".join(f"- {_escape(name)}: {_cell(value)}" for name, value in body.items()) or "Nothing."
    if isinstance(body, list):
        body = _flat(body)
        if not body:
            return "Nothing."
        if all(isinstance(one, Mapping) for one in body):
            return _table(body)
        if not any(isinstance(one, Mapping) for one in body):
            return "\n".join(f"- {_cell(one)}" for one in body)
    raise ValueError(f"the section {heading!r} holds no text, list of texts, list of maps, or map")


def _flat(items: list[Any]) -> list[Any]:
    """Lists of lists come from loops: what each item brought, one after the other."""
    return [one for item in items for one in (item if isinstance(item, list) else [item])]


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [
        columns,
        ["---"] * len(columns),
        *([_cell(row.get(name, "")) for name in columns] for row in rows),
    ]
    head, *rest = lines
    return "\n".join(f"| {' | '.join(cells)} |" for cells in ([_escape(name) for name in head], *rest))


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_escape(str(name))} {_cell(one)}" for name, one in value.items())
    if isinstance(value, list):
        sentences = bool(value) and all(isinstance(one, str) and one[-1:] in ".!?…" for one in value)
        return (" " if sentences else ", ").join(_cell(one) for one in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    return _escape(str(value))


def _escape(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
