"""Links in Markdown: those that lead to no file, or to no heading of it."""

from __future__ import annotations

import posixpath
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

# All is bounded: a page is anybody's, and a pattern that looks for its end through the whole page does so at each begin.
_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_CODE = re.compile(r"(?<!`)(`{1,4})(?!`)[^`\n]{1,1000}\1(?!`)")
_TARGET = r"\(\s{0,10}<?([^)\s>\[]{1,1000}+)>?(?:\s{1,10}\"[^\"]{0,300}\")?\s{0,10}\)"
_IMAGE = re.compile(r"!\[[^\[\]]{0,300}\]" + _TARGET)
_INLINE = re.compile(r"\[(?:[^\[\]]|\[[^\[\]]{0,300}\]){0,300}\]" + _TARGET)
_USED = re.compile(r"\[([^\[\]]{1,300})\]\[([^\[\]]{0,300})\]")
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
    for heading in _HEADING.findall(_without_fences(text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.add(f"{name}-{counted[name]}" if counted[name] else name)
        counted[name] += 1
    return found


def _without_code(text: str) -> str:
    """Blank out code, line by line, so that line numbers stay."""
    return _CODE.sub(lambda match: " " * len(match[0]), _without_fences(text))


def _without_fences(text: str) -> str:
    """Blank out fenced blocks; one that is not closed goes to the end."""
    lines = text.split("\n")
    fence = ""
    for number, line in enumerate(lines):
        mark = _FENCE.match(line)
        if fence:
            lines[number] = ""
            # It is closed by as many of the same sign or more, and nothing behind them.
            if mark is not None and mark[1].startswith(fence) and not line[mark.end() :].strip():
                fence = ""
        elif mark is not None:
            lines[number] = ""
            fence = mark[1]
    return "\n".join(lines)


def _links(prose: str, broken: list[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    ends = [match.start() for match in re.finditer("\n", prose)]

    def line(at: int) -> int:
        return bisect_left(ends, at) + 1

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
