"""Sentences, words, syllables and languages: what every skill with texts stands on. English, Russian and German."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")
_PARAGRAPH = re.compile(r"\n\s*\n")
# A sentence ends at a stop, and at quotes and brackets closed behind it, where a capital or a digit follows.
_END = re.compile(r"(?<=[.!?…])[\"'”»)\]]*\s+(?=[\"'“«„(\[—–-]*\s*[A-ZА-ЯЁÄÖÜ0-9])")


@dataclass(frozen=True)
class Language:
    """What is known of a language.

    Attributes:
        stop_words: words that say nothing of what a text is about.
        endings: of inflected words, the longest first.
        vowels: letters that make a syllable.
        abbreviations: words whose full stop ends no sentence.
    """

    stop_words: frozenset[str]
    endings: tuple[str, ...]
    vowels: str
    abbreviations: frozenset[str]


def _language(stop_words: str, endings: str, vowels: str, abbreviations: str) -> Language:
    longest_first = tuple(sorted(endings.split(), key=len, reverse=True))
    return Language(frozenset(stop_words.split()), longest_first, vowels, frozenset(abbreviations.split()))


LANGUAGES = {
    "en": _language(
        "a about above after again all also although always an and another any are as at be because been before "
        "being below between both but by can cannot could did do does down during each either even ever every few "
        "for from further get had has have he her here him his how however i if in into is it its itself just less "
        "let like made make many may me might more most much must my near never no nor not now of off often on "
        "once one only or other our out over own per same she should since so some still such than that the their "
        "them then there these they this those though three through to too two under until up upon us very was we "
        "well were what when where whether which while who whom whose why will with within without would yet you "
        "your",
        "e s es ed ing ly 's",
        "aeiouy",
        "mr mrs ms dr prof st no vs etc e.g i.e approx",
    ),
    "ru": _language(
        "а без более был была были было быть в вам вас весь во вот все всё всего всех вы где да даже для до его ее "
        "её если есть еще ещё же за здесь и из или им их к как какой когда который которая которое которые кто "
        "лишь ли либо между меня мне много может можно мой мы на над надо нас не него нее неё нет ни них но ну о "
        "об однако он она они оно от очень по под пока после потом потому почти при про раз с сам себе себя со так "
        "также такой там те тем то того тоже той только том ту ты у уже хотя чего чем через что чтобы чья эта эти "
        "это этого этой этом этот эту я один одна одно два две три каждый каждая каждое свой своя своё свои своего "
        "своей своих тот та",
        "а я о е ы и у ю ой ей ом ем ём ам ям ах ях ами ями ов ев ый ий ая яя ое ее ые ие ого его ому ему ым им ых "
        "их ую юю ет ит ют ут ат ят ал ил ел ла ло ли ла сь ся ть л ь",
        "аеёиоуыэюя",
        "г гг в вв т.е т.д т.п др пр ул руб тыс млн млрд им стр см напр",
    ),
    "de": _language(
        "aber alle als also am an auch auf aus bei beim bis da damit dann das dass dem den denn der des die dies "
        "diese dieser dieses doch dort durch ein eine einem einen einer eines er es für hat hatte ich ihr ihre im "
        "in ist ja jede jeder jedes kann kein keine man mehr mit muss nach nicht noch nun nur ob oder ohne sehr "
        "sein seine sich sie sind so über um und uns unter vom von vor war was wenn wer werden wie wieder wird wir "
        "wo zu zum zur zwei zwischen",
        "e en er es n s em est",
        "aeiouyäöü",
        "z.b d.h u.a bzw ca dr nr usw vgl",
    ),
}


def words(text: str) -> list[str]:
    """Return the words of a text as they stand."""
    return _WORD.findall(text)


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a text, each on one line."""
    return [" ".join(part.split()) for part in _PARAGRAPH.split(text) if part.strip()]


def sentences(text: str, language: str) -> list[str]:
    """Return the sentences of a text; a paragraph's end ends a sentence too."""
    known = LANGUAGES[language].abbreviations
    found: list[str] = []
    for paragraph in paragraphs(text):
        start = 0
        for end in _END.finditer(paragraph):
            last = paragraph[start : end.start()].rstrip(".").rpartition(" ")[2]
            initial = len(last) == 1 and last.isupper() and last not in "IЯ"
            if paragraph[end.start() - 1] == "." and (initial or last.lower() in known):
                continue
            found.append(paragraph[start : end.end()].strip())
            start = end.end()
        if rest := paragraph[start:].strip():
            found.append(rest)
    return found


def detect_language(text: str) -> str:
    """Return the language of a text: Russian by its letters, the others by whose stop words there are most; else `en`."""
    all_words = [word.lower() for word in words(text)]
    cyrillic = sum("а" <= word[0] <= "я" or word[0] == "ё" for word in all_words)
    if 2 * cyrillic > len(all_words):
        return "ru"
    counted = {
        name: sum(word in language.stop_words for word in all_words)
        for name, language in LANGUAGES.items()
        if name != "ru"
    }
    return max(counted, key=lambda name: counted[name])


def stem(word: str, language: str) -> str:
    """Return a word without its ending, so that its forms are counted as one. Light: no dictionary stands behind it."""
    word = word.lower().replace("ё", "е")
    for ending in LANGUAGES[language].endings:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def syllables(word: str, language: str) -> int:
    """Return how many syllables a word has: in Russian one for each vowel, else one for each group of them."""
    word = word.lower()
    vowels = LANGUAGES[language].vowels
    if language == "ru":
        return max(1, sum(letter in vowels for letter in word))
    count = len(re.findall(f"[{vowels}]+", word))
    if language == "en" and word.endswith("e") and not word.endswith(("le", "ee", "ye")):
        count -= 1
    return max(1, count)
