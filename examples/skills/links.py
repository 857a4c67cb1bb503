"""Links in Markdown: those that lead to no file, or to no heading of it."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

_FENCE = re.compile(r"^(```+|~~~+)[^\n]*\n.*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)[^`\n]+?\1")
_TARGET = r"\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)"
_IMAGE = re.compile(r"!\[[^\[\]]*\]" + _TARGET)
_INLINE = re.compile(r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]" + _TARGET)
_USED = re.compile(r"\[([^\[\]]+)\]\[([^\[\]]*)\]")
_DEFINED = re.compile(r"^ {0,3}\[([^\]]+)\]:\s*<?(\S+?)>?(?:\s+\"[^\"]*\")?\s*$", re.MULTILINE)
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)(?:[ \t]+#+)?[ \t]*$", re.MULTILINE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


def check(path: str, texts: Mapping[str, str], others: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Check the links of one page.

    Args:
        path: which one.
        texts: all pages: their paths and texts.
        others: paths of files that are no pages, such as pictures.

    Returns:
        `path`, `links` (how many were looked at), `outside` (how many lead to another machine: those are not followed), and
        `broken`: `line`, `link`, `problem`.
    """
    prose = _without_code(texts[path])
    broken: list[dict[str, Any]] = []
    inside = outside = 0
    for line, link in _links(prose, broken):
        if _SCHEME.match(link):
            outside += 1
            continue
        inside += 1
        target, _, anchor = link.partition("#")
        file = (
            path
            if not target
            else posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(target)))
        )
        if file not in texts and file not in others and not any(one.startswith(f"{file}/") for one in texts):
            broken.append({"line": line, "link": link, "problem": f"no file {file}"})
        elif anchor and file in texts and unquote(anchor).lower() not in anchors(texts[file]):
            broken.append({"line": line, "link": link, "problem": f"no heading #{unquote(anchor)} in {file}"})
    broken.sort(key=lambda one: one["line"])
    return {"path": path, "links": inside + outside, "outside": outside, "broken": broken}


def anchors(text: str) -> set[str]:
    """Return what the headings of a page are called in links, as GitHub names them: repeated ones are numbered."""
    counted: Counter[str] = Counter()
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.add(f"{name}-{counted[name]}" if counted[name] else name)
        counted[name] += 1
    return found


def _without_code(text: str) -> str:
    """Blank out code, line by line, so that line numbers stay."""
    text = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    return _CODE.sub(lambda match: " " * len(match[0]), text)


def _links(prose: str, broken: list[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    def line(at: int) -> int:
        return prose.count("\n", 0, at) + 1

    defined = {match[1].lower(): match for match in _DEFINED.finditer(prose)}
    for match in _IMAGE.finditer(prose):
        yield line(match.start()), match[1]
    plain = _IMAGE.sub(lambda match: " " * len(match[0]), prose)  # a picture may be what a link shows
    for match in _INLINE.finditer(plain):
        yield line(match.start()), match[1]
    for match in defined.values():
        yield line(match.start()), match[2]
    for match in _USED.finditer(prose):
        name = (match[2] or match[1]).lower()
        if name not in defined:
            broken.append(
                {"line": line(match.start()), "link": match[0], "problem": f"nothing defines [{name}]"}
            )
