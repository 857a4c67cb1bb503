"""Plain language: heavy phrases become light ones, and the longest sentences are cut in two where they allow it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from examples.skills.words import paragraphs, sentences, words

# Only what leaves the rest of the sentence right: the light phrase takes the same case and the same verb as the heavy one.
_LIGHTER = {
    "en": {
        "at this point in time": "now",
        "due to the fact that": "because",
        "for the purpose of": "for",
        "in accordance with": "under",
        "in order to": "to",
        "in the event that": "if",
        "is required to": "must",
        "are required to": "must",
        "is able to": "can",
        "are able to": "can",
        "not later than": "by",
        "prior to": "before",
        "subsequent to": "after",
        "with regard to": "about",
        "with the exception of": "except",
        "a large number of": "many",
        "has the obligation to": "must",
        "additional": "extra",
        "approximately": "about",
        "assistance": "help",
        "commence": "begin",
        "endeavour to": "try to",
        "facilitate": "help",
        "notify": "tell",
        "notwithstanding": "despite",
        "regarding": "about",
        "sufficient": "enough",
        "terminate": "end",
        "utilise": "use",
    },
    "ru": {
        "в связи с тем, что": "поскольку",
        "в случае, если": "если",
        "в целях": "для",
        "в настоящее время": "сейчас",
        "на сегодняшний день": "сейчас",
        "оказывать содействие": "помогать",
        "оказывает содействие": "помогает",
        "не представляется возможным": "нельзя",
        "является обязательным": "обязательно",
        "вышеуказанный": "этот",
        "вышеуказанные": "эти",
        "незамедлительно": "сразу",
        "надлежащим образом": "как следует",
        "посредством": "с помощью",
        "уведомить": "предупредить",
        "приобрести": "купить",
    },
    "de": {
        "zum jetzigen Zeitpunkt": "jetzt",
        "aufgrund der Tatsache, dass": "weil",
        "in Übereinstimmung mit": "nach",
        "ist in der Lage": "kann",
        "sind in der Lage": "können",
        "unverzüglich": "sofort",
    },
}
# Where one sentence may become two: the sign goes, and what follows begins anew.
_SEAMS = {
    "en": (
        r";\s+|\s+[—–]\s+"
        r"|,\s+(?=(?:and|but|so|yet)\s+(?:the|this|that|these|it|they|he|she|we|you|there|a|an|no|every)\b)"
    ),
    "ru": r";\s+|,\s+(?=(?:а|но|однако|поэтому|причём|при этом)\s+)|\s+[—–]\s+(?=[а-яё]+\s+[а-яё]+\s+[а-яё]+)",
    "de": r";\s+|,\s+(?=(?:und|aber|doch|denn)\s+(?:der|die|das|es|er|sie|wir|man|ein|eine)\b)|\s+[—–]\s+",
}
_MOST = 3000  # characters: what is longer is no sentence
_LEAST = 5  # words on either side of a cut: less is no sentence


@dataclass(frozen=True)
class Simplified:
    """A lighter text, and what was done to it: none of it is a guess, so each change can be looked at."""

    text: str
    changes: list[str]


def simplify(text: str, language: str, most_words: int, most_cuts: int = 2) -> Simplified:
    """Make a text lighter by one step.

    Args:
        text: the text.
        language: its language.
        most_words: sentences with more words are cut, where there is a place for it.
        most_cuts: how many of them, the longest first. Heavy phrases are replaced all at once.
    """
    changes: list[str] = []
    lighter = _lighten(text, language, changes)
    long = sorted(
        (one for one in sentences(lighter, language) if len(words(one)) > most_words),
        key=lambda one: len(words(one)),
        reverse=True,
    )
    cuts: dict[str, str] = {}
    for sentence in long:
        if len(cuts) < most_cuts and sentence not in cuts and (cut := _cut(sentence, language)) is not None:
            cuts[sentence] = cut
            changes.append(f"cut in two: {sentence}")
    if not cuts:
        return Simplified(lighter, changes)
    blocks = [
        " ".join(cuts.get(one, one) for one in sentences(paragraph, language))
        for paragraph in paragraphs(lighter)
    ]
    return Simplified("\n\n".join(blocks), changes)


def _lighten(text: str, language: str, changes: list[str]) -> str:
    for heavy, light in _LIGHTER[language].items():
        phrase = r"\s+".join(map(re.escape, heavy.split()))
        # Behind an article it may be another part of speech, and the article may not fit the light word.
        pattern = re.compile(rf"(?<!\ba )(?<!\ban )(?<!\bthe )\b{phrase}\b", re.IGNORECASE)

        def put(match: re.Match[str], light: str = light) -> str:
            instead = light[0].upper() + light[1:] if match[0][0].isupper() else light
            changes.append(f"{' '.join(match[0].split())} -> {instead}")
            return instead

        text = pattern.sub(put, text)
    return text


def _cut(sentence: str, language: str) -> str | None:
    """Cut a sentence at the seam that is nearest to its middle; None where there is none."""
    if len(sentence) > _MOST:
        return None
    middle = len(sentence) / 2
    seams = [
        (abs(seam.start() - middle), seam.start(), seam.end())
        for seam in re.finditer(_SEAMS[language], sentence)
        if min(len(words(sentence[: seam.start()])), len(words(sentence[seam.end() :]))) >= _LEAST
    ]
    if not seams:
        return None
    _, start, end = min(seams)
    rest = sentence[end:]
    return f"{sentence[:start].rstrip(',')}. {rest[0].upper()}{rest[1:]}"
