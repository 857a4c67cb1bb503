"""The grammar of a selector's string form: Kubernetes' lexer and parser, token for token.

Source: k8s.io/apimachinery/pkg/labels/selector.go, `Lexer` and `Parser`. Like there, `in` and `notin` are
operators only where an operator is expected, `==` is `=`, and empty values are allowed (`a=`, `a in (,b)`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from roster.errors import SelectorError
from roster.passport.requirement import Requirement, make_requirement
from roster.passport.words import quote

_TOKEN = re.compile(r"[ \t\r\n]*(?:(==|!=|[=!<>(),])|([^ \t\r\n=!<>(),]+)|$)")


class _Token(NamedTuple):
    text: str
    at: int
    kind: str  # "symbol", "word" or "end"


def requirements(text: str) -> list[Requirement]:
    """Return the requirements of a selector's text, in its order.

    Raises:
        SelectorError: with the position and what was expected there.
    """
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[_Token] = []
        at = 0
        while True:
            found = _TOKEN.match(text, at)
            # Every character is a symbol, a space or part of a word, so the expression always matches.
            assert found is not None  # noqa: S101  # said above
            kind = "symbol" if found.group(1) else "word" if found.group(2) else "end"
            token = found.group(1) or found.group(2) or ""
            self._tokens.append(_Token(token, found.end() - len(token), kind))
            if kind == "end":
                break
            at = found.end()
        self._next = 0

    def parse(self) -> list[Requirement]:
        out: list[Requirement] = []
        if self._peek().kind == "end":
            return out
        while True:
            if self._peek().kind != "word" and self._peek().text != "!":
                raise self._error("a key, or ! and a key")
            out.append(self._requirement())
            token = self._take()
            if token.kind == "end":
                return out
            if token.text != ",":
                raise self._error("a comma or the end", token)

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        if token.kind != "end":
            self._next += 1
        return token

    def _error(self, expected: str, token: _Token | None = None) -> SelectorError:
        token = token or self._peek()
        found = quote(token.text) if token.kind != "end" else "the end"
        return SelectorError(
            f"the selector {quote(self._text, 120)} cannot be read at position {token.at + 1}: "
            f"expected {expected}, found {found}"
        )

    def _requirement(self) -> Requirement:
        absent = self._peek().text == "!" and bool(self._take())
        token = self._peek()
        if token.kind != "word":
            raise self._error("a key")
        key = self._take().text
        where = f" (position {token.at + 1})"
        following = self._peek()
        if absent:
            return make_requirement(key, "!", (), where)
        if following.kind == "end" or following.text == ",":
            return make_requirement(key, "exists", (), where)
        match following.text:
            case "in" | "notin":
                operator = self._take().text
                return make_requirement(key, operator, self._values(), where)
            case "=" | "==" | "!=" | ">" | "<":
                operator = self._take().text
                return make_requirement(key, "=" if operator == "==" else operator, (self._value(),), where)
            case _:
                raise self._error("one of =, ==, !=, in, notin, >, <, a comma or the end")

    def _value(self) -> str:
        token = self._peek()
        if token.kind == "end" or token.text == ",":
            return ""
        if token.kind != "word":
            raise self._error("a value")
        return self._take().text

    def _values(self) -> tuple[str, ...]:
        if self._peek().text != "(":
            raise self._error("( and values")
        self._take()
        if self._peek().text == ")":
            self._take()
            return ()
        out: list[str] = []
        while True:
            token = self._peek()
            if token.kind == "word":
                out.append(self._take().text)
            elif token.text in (",", ")"):
                out.append("")
            else:
                raise self._error("a value, a comma or )")
            closing = self._take()
            if closing.text == ")" and closing.kind == "symbol":
                return tuple(out)
            if closing.text != ",":
                raise self._error("a comma or )", closing)
