"""The writer of the founding document's passport: articles out of what the library says, and tidy text."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from examples.agents.files import INPUT, MAX_BYTES
from examples.agents.starting import main
from examples.skills.words import detect_language, sentences, stem, words
from roster import Code, Context, Node, RemoteError

_MOST = 12  # sentences


def make(passport: str | os.PathLike[str]) -> Node:
    """Return the node of a passport."""
    node = Node.load(passport)
    library = Path(os.environ.get(INPUT) or Path(__file__).parents[1] / "input")

    @node.capability("write_article")
    def write_article(topic: str, context: Context, style: str = "plain") -> dict[str, Any]:
        if style not in ("plain", "list"):
            raise RemoteError(f"no style {style!r}: there are plain and list", code=Code.INVALID_ARGUMENT)
        found: list[str] = []
        sources: list[str] = []
        for file in sorted(library.glob("*.txt")):
            context.check()
            context.progress(reading=file.name)
            text = file.read_bytes()[:MAX_BYTES].decode("utf-8", "replace")
            if about := _about(text, topic):
                found += about
                sources.append(file.name)
        if not found:
            raise RemoteError(f"the library says nothing about {topic[:100]!r}", code=Code.NOT_FOUND)
        found = found[:_MOST]
        article = " ".join(found) if style == "plain" else "\n".join(f"- {one}" for one in found)
        return {"article": article, "metadata": {"style": style, "sources": sources, "sentences": len(found)}}

    @node.capability("edit_text")
    def edit_text(text: str) -> dict[str, Any]:
        return {"edited_text": tidy(text)}

    return node


def _about(text: str, topic: str) -> list[str]:
    """Return the sentences in which every word of the topic stands, in whichever form."""
    language = detect_language(text)
    wanted = {stem(word, language) for word in words(topic)}
    found = sentences(re.sub(r"(?m)^#+ .*$", "", text), language)
    return [one for one in found if wanted and wanted <= {stem(word, language) for word in words(one)}]


def tidy(text: str) -> str:
    """Return a text with single spaces, none before a comma, a capital first and a stop last, paragraph by paragraph."""
    tidied = []
    for paragraph in re.split(r"\n\s*\n", text):
        one = re.sub(r"\s+([,.;:!?…])", r"\1", " ".join(paragraph.split()))
        if one:
            tidied.append(one[0].upper() + one[1:] + ("" if one[-1] in '.!?…:"»”' else "."))
    return "\n\n".join(tidied)


if __name__ == "__main__":
    main(make, "writer-001.yaml")
