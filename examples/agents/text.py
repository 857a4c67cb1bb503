"""An agent that works on texts: languages, parts, summaries, keywords, readability, plain words."""

from __future__ import annotations

import os
from typing import Any

from examples.agents.starting import main, refusing
from examples.skills import summary
from examples.skills.keywords import keywords
from examples.skills.readability import measure
from examples.skills.simplify import simplify
from examples.skills.words import LANGUAGES, detect_language
from roster import Context, Node


def _known(language: str | None, text: str) -> str:
    """Return the language that was given, or the one that the text is in."""
    if language is None:
        return detect_language(text)
    if language not in LANGUAGES:
        raise ValueError(f"no language {language!r}: there are {', '.join(LANGUAGES)}")
    return language


def make(passport: str | os.PathLike[str]) -> Node:
    """Return the node of a passport. Its functions are plain ones: each call has a thread of its own."""
    node = Node.load(passport)

    @node.capability("split_text")
    def split_text(text: str, words: int = 200, language: str | None = None) -> dict[str, Any]:
        with refusing():
            language = _known(language, text)
            return {"language": language, "parts": summary.split(text, language, words)}

    @node.capability("summarise_text")
    def summarise_text(
        text: str, context: Context, sentences: int = 3, language: str | None = None
    ) -> dict[str, Any]:
        with refusing():
            language = _known(language, text)
            context.progress(step="reading", language=language)
            return {"language": language, "sentences": summary.summarise(text, language, sentences)}

    @node.capability("extract_keywords")
    def extract_keywords(text: str, top: int = 10, language: str | None = None) -> dict[str, Any]:
        with refusing():
            language = _known(language, text)
            return {"language": language, "keywords": keywords(text, language, top)}

    @node.capability("measure_readability")
    def measure_readability(text: str, language: str | None = None) -> dict[str, Any]:
        with refusing():
            return measure(text, _known(language, text)).to_dict()

    @node.capability("simplify_text")
    def simplify_text(text: str, words: int = 20, language: str | None = None) -> dict[str, Any]:
        with refusing():
            done = simplify(text, _known(language, text), words)
            return {"text": done.text, "changes": done.changes, "changed": len(done.changes)}

    return node


if __name__ == "__main__":
    main(make, "text-001.yaml")
