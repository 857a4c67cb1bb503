"""How easy a text is to read: Flesch's reading ease, and what others made of it for Russian and German.

English: R. Flesch 1948. Russian: I. V. Oborneva 2006, who fitted the two weights to parallel texts. German: T. Amstad 1978.
100 is very easy, 60 plain, 30 hard, below 0 a law.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from examples.skills.words import sentences, syllables, words

# constant, weight of the words in a sentence, weight of the syllables in a word
_FORMULAS = {"en": (206.835, 1.015, 84.6), "ru": (206.835, 1.3, 60.1), "de": (180.0, 1.0, 58.5)}


@dataclass(frozen=True)
class Readability:
    """What was measured."""

    score: float
    language: str
    sentences: int
    words: int
    syllables: int
    words_per_sentence: float
    syllables_per_word: float
    longest_sentence: str

    def to_dict(self) -> dict[str, object]:
        """Return it as JSON values."""
        return asdict(self)


def measure(text: str, language: str) -> Readability:
    """Measure a text.

    Raises:
        ValueError: it has no words.
    """
    found = sentences(text, language)
    all_words = words(text)
    if not all_words:
        raise ValueError("the text has no words: there is nothing to measure")
    sounds = sum(syllables(word, language) for word in all_words)
    constant, by_sentence, by_word = _FORMULAS[language]
    length, weight = len(all_words) / len(found), sounds / len(all_words)
    return Readability(
        score=round(constant - by_sentence * length - by_word * weight, 1),
        language=language,
        sentences=len(found),
        words=len(all_words),
        syllables=sounds,
        words_per_sentence=round(length, 1),
        syllables_per_word=round(weight, 2),
        longest_sentence=max(found, key=lambda one: len(words(one))),
    )
