"""Keywords: phrases between stop words, scored by how often their words occur and keep company (RAKE, Rose et al. 2010)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import combinations
from typing import TypeAlias

from examples.skills.words import LANGUAGES, sentences, stem, words

Key: TypeAlias = tuple[str, ...]

_MOST_WORDS = 3
_BREAK = re.compile(r"[,;:()\[\]«»\"“”„—–]|\s-\s")


def keywords(text: str, language: str, top: int) -> list[dict[str, object]]:
    """Return the `top` phrases with their scores and counts, the best first.

    RAKE alone prefers what is long and rare. So pieces of phrases count too where they are repeated, what is repeated comes
    before what is not, and a piece that only ever stands in one longer phrase is left to that. Forms of one word count as
    one, and the commonest form is shown.
    """
    frequency: Counter[str] = Counter()
    degree: Counter[str] = Counter()
    counted: Counter[Key] = Counter()
    shown: dict[Key, Counter[str]] = defaultdict(Counter)
    whole: set[Key] = set()
    for phrase in _phrases(text, language):
        stems = tuple(stem(word, language) for word in phrase)
        whole.add(stems)
        for word in stems:
            frequency[word] += 1
            degree[word] += len(stems)
        for start, end in combinations(range(len(stems) + 1), 2):
            counted[stems[start:end]] += 1
            shown[stems[start:end]][" ".join(phrase[start:end]).lower()] += 1
    swallowed = {
        key[start:end]
        for key, count in counted.items()
        for start, end in combinations(range(len(key) + 1), 2)
        if end - start < len(key) and counted[key[start:end]] == count
    }
    score = {
        key: count * sum(degree[word] / frequency[word] for word in key)
        for key, count in counted.items()
        if (count > 1 or key in whole) and key not in swallowed
    }
    best = sorted(score, key=lambda key: (counted[key] < 2, -score[key], key))[:top]
    return [
        {"phrase": shown[key].most_common(1)[0][0], "count": counted[key], "score": round(score[key], 2)}
        for key in best
    ]


def _phrases(text: str, language: str) -> list[list[str]]:
    stop_words = LANGUAGES[language].stop_words
    phrases: list[list[str]] = []
    for sentence in sentences(text, language):
        for clause in _BREAK.split(sentence):
            run: list[str] = []
            for word in [*words(clause), ""]:
                if word and word.lower() not in stop_words and len(word) > 2:
                    run.append(word)
                elif run:
                    if len(run) <= _MOST_WORDS:
                        phrases.append(run)
                    else:  # a long run is a clause without small words, no phrase
                        phrases += [[one] for one in run]
                    run = []
    return phrases
