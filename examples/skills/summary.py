"""Extractive summaries: the sentences that are most like the others (TextRank, Mihalcea and Tarau 2004)."""

from __future__ import annotations

import math
import re
from collections import Counter

from examples.skills.words import LANGUAGES, paragraphs, sentences, stem, words

_DAMPING = 0.85
_ROUNDS = 50
_ENOUGH = 1e-6
MAX_SENTENCES = 400  # every one is compared with every other


def split(text: str, language: str, most_words: int) -> list[str]:
    """Return a text in parts of at most so many words: whole paragraphs, or sentences where one is too long."""
    parts: list[list[str]] = [[]]
    room = most_words
    for paragraph in paragraphs(text):
        pieces = [paragraph] if len(words(paragraph)) <= most_words else sentences(paragraph, language)
        for piece in pieces:
            size = len(words(piece))
            if parts[-1] and size > room:
                parts.append([])
                room = most_words
            parts[-1].append(piece)
            room -= size
    return ["\n\n".join(part) for part in parts if part]


def summarise(text: str, language: str, count: int) -> list[str]:
    """Return the `count` sentences that stand for a text, in its own order.

    Raises:
        ValueError: it has more than `MAX_SENTENCES`: split it first.
    """
    found = [
        one for one in sentences(_without_headings(text), language) if len(words(one)) >= 4
    ]  # shorter ones are headings and exclamations
    if len(found) > MAX_SENTENCES:
        raise ValueError(
            f"the text has {len(found)} sentences, a summary takes {MAX_SENTENCES}: split it first"
        )
    if len(found) <= count:
        return found
    rank = _rank([_content(one, language) for one in found])
    best = sorted(range(len(found)), key=lambda number: (-rank[number], number))[:count]
    return [found[number] for number in sorted(best)]


def _without_headings(text: str) -> str:
    return re.sub(r"(?m)^#+ .*$", "", text)


def _content(sentence: str, language: str) -> Counter[str]:
    stop_words = LANGUAGES[language].stop_words
    return Counter(stem(word, language) for word in words(sentence) if word.lower() not in stop_words)


def _likeness(one: Counter[str], other: Counter[str]) -> float:
    shared = sum(min(count, other[word]) for word, count in one.items() if word in other)
    size = math.log(1 + one.total()) + math.log(1 + other.total())
    return shared / size if shared else 0.0


def _rank(content: list[Counter[str]]) -> list[float]:
    """Return how much each sentence is recommended by the others: PageRank over their likeness."""
    count = len(content)
    likeness = [[0.0] * count for _ in range(count)]
    for one in range(count):
        for other in range(one):
            likeness[one][other] = likeness[other][one] = _likeness(content[one], content[other])
    total = [sum(row) for row in likeness]
    rank = [1.0] * count
    for _ in range(_ROUNDS):
        share = [rank[number] / total[number] if total[number] else 0.0 for number in range(count)]
        new = [
            1 - _DAMPING + _DAMPING * sum(like * part for like, part in zip(row, share, strict=True))
            for row in likeness
        ]
        moved = max(abs(one - other) for one, other in zip(new, rank, strict=True))
        rank = new
        if moved < _ENOUGH:
            break
    return rank
