"""The language of expressions: text to a small tree, bounded before anything is built from it.

    expression = all { "||" all }          all = comparison { "&&" comparison }
    comparison = unary [ ( "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" ) unary ]
    unary      = "!" unary | "(" expression ")" | "${" expression "}" | list | value | reference
    reference  = name { "." name | "[" integer "]" | "[" text "]" }

It is a subset of CEL: what stands here means the same there. There are no functions, no macros, no arithmetic. `${` and
`}` are one more pair of brackets, so `${a} > 1`, `${a > 1}` and `a > 1` are one expression.

Source: https://github.com/google/cel-spec/blob/master/doc/langdef.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from roster.passport.limits import MAX_NUMBER_CHARS
from roster.passport.words import escape, quote

MAX_BYTES = 1024
MAX_TOKENS = 200
MAX_DEPTH = 32

# Beyond these CEL's integers end; what is larger is compared as a double, as JSON's readers elsewhere do.
MAX_INTEGER = 2**63 - 1

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<number>(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)
    |(?P<name>[^\W\d]\w*(?:-\w+)*)
    |(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<mark>\$\{|&&|\|\||[=!<>]=|[<>!()\[\],.}-])""",
    re.VERBOSE,
)
_ESCAPES = {"\\": "\\", '"': '"', "'": "'", "/": "/", "n": "\n", "t": "\t", "r": "\r"}
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_WORDS = {"true": True, "false": False, "null": None}
_COMPARISONS = frozenset(("==", "!=", "<", "<=", ">", ">=", "in"))
_ELSEWHERE = {
    "and": "write &&",
    "or": "write ||",
    "not": "write !",
    "is": "write ==",
    "True": "write true",
    "False": "write false",
    "None": "write null",
    "=": "write ==",
    "&": "write &&",
    "|": "write ||",
    "{": "write ${name}, with one brace",
    "?": "write a step with condition, then and else",
    **dict.fromkeys("+-*/%", "there is no arithmetic in cards: have a capability do it"),
}


class SyntaxFault(Exception):
    """Text that is no expression; says what was expected, and at which character (1-based)."""

    def __init__(self, message: str, at: int | None = None) -> None:
        super().__init__(message if at is None else f"{message} (character {at + 1})")


@dataclass(frozen=True, slots=True)
class Reference:
    """A value that is looked up: a variable, and the way into it."""

    steps: tuple[str | int, ...]

    @property
    def root(self) -> str:
        """The variable."""
        return str(self.steps[0])

    def __str__(self) -> str:
        out = self.root
        for step in self.steps[1:]:
            plain = isinstance(step, str) and re.fullmatch(r"[^\W\d]\w*(?:-\w+)*", step)
            out += f".{escape(str(step))}" if plain else f"[{step if isinstance(step, int) else quote(step)}]"
        return out


@dataclass(frozen=True, slots=True)
class Literal:
    """A value that stands in the text."""

    value: Any


@dataclass(frozen=True, slots=True)
class Several:
    """A list of values."""

    items: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of a condition."""

    inner: Tree


@dataclass(frozen=True, slots=True)
class Compare:
    """Two values compared by one operator."""

    operator: str
    left: Tree
    right: Tree


@dataclass(frozen=True, slots=True)
class Junction:
    """Conditions joined by `&&` or `||`."""

    operator: str
    parts: tuple[Tree, ...]


Tree: TypeAlias = Reference | Literal | Several | Not | Compare | Junction


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def parse_condition(text: str) -> Tree:
    """Return the tree of a text that is one expression.

    Raises:
        SyntaxFault: it is none, or over a limit.
    """
    tokens, _ = _tokens(text, 0, embedded=False)
    return _Parser(tokens, len(text)).whole()


def parse_embedded(text: str, start: int) -> tuple[Tree, int]:
    """Return the tree of the expression whose `${` ends before `start`, and where the text goes on behind its `}`.

    Raises:
        SyntaxFault: it is none, or over a limit.
    """
    tokens, end = _tokens(text, start, embedded=True)
    return _Parser(tokens, end - 1).whole(), end


def _tokens(text: str, start: int, *, embedded: bool) -> tuple[list[_Token], int]:
    """Cut a text into tokens, up to the `}` that closes it if it is embedded in another."""
    if not embedded and len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise SyntaxFault(f"an expression of more than {MAX_BYTES} bytes: split it over several steps")
    out: list[_Token] = []
    at, size, braces = start, 0, 0
    while at < len(text):
        # A text of many megabytes may follow; no match can be longer than what is looked at.
        found = _TOKEN.match(text, at, min(len(text), at + MAX_BYTES + 1))
        if found is None:
            raise _stranger(text, at)
        kind, word = str(found.lastgroup), found.group()
        size += len(word.encode("utf-8", "surrogatepass"))
        if size > MAX_BYTES:
            raise SyntaxFault(f"an expression of more than {MAX_BYTES} bytes: split it over several steps")
        if word == "${":
            braces += 1
        elif word == "}":
            if embedded and not braces:
                return out, found.end()
            braces -= 1
        if kind != "space":
            if len(out) >= MAX_TOKENS:
                raise SyntaxFault(f"an expression of more than {MAX_TOKENS} words and signs: split it")
            out.append(_Token(kind, word, at))
        at = found.end()
    if embedded:
        raise SyntaxFault("${ is not closed: write } behind the expression", start - 2)
    return out, at


def _stranger(text: str, at: int) -> SyntaxFault:
    char = text[at]
    if char in "\"'":
        return SyntaxFault("text in quotes that is not closed", at)
    hint = _ELSEWHERE.get(char)
    return SyntaxFault(f"{quote(char)} is not known in expressions{f': {hint}' if hint else ''}", at)


class _Parser:
    """Recursive descent over the tokens of one expression; `depth` bounds the recursion."""

    def __init__(self, tokens: list[_Token], end: int) -> None:
        self._tokens = tokens
        self._end = end
        self._next = 0

    def whole(self) -> Tree:
        tree = self._any(0)
        token = self._peek()
        if token is not None:
            raise self._unexpected(token, "&&, ||, a comparison or the end")
        return tree

    def _peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take(self, *texts: str) -> _Token | None:
        token = self._peek()
        if token is None or token.kind == "text" or token.text not in texts:
            return None
        self._next += 1
        return token

    def _unexpected(self, token: _Token | None, expected: str) -> SyntaxFault:
        if token is None:
            return SyntaxFault(f"expected {expected}, found the end", self._end)
        hint = _ELSEWHERE.get(token.text)
        return SyntaxFault(
            f"expected {expected}, found {quote(token.text)}{f': {hint}' if hint else ''}", token.at
        )

    def _any(self, depth: int) -> Tree:
        if depth > MAX_DEPTH:
            at = self._tokens[min(self._next, len(self._tokens) - 1)].at
            raise SyntaxFault(
                f"an expression nested deeper than {MAX_DEPTH}: split it over several steps", at
            )
        return self._joined("||", depth)

    def _joined(self, operator: str, depth: int) -> Tree:
        parts = [self._joined("&&", depth) if operator == "||" else self._comparison(depth)]
        while self._take(operator):
            parts.append(self._joined("&&", depth) if operator == "||" else self._comparison(depth))
        return parts[0] if len(parts) == 1 else Junction(operator, tuple(parts))

    def _comparison(self, depth: int) -> Tree:
        left = self._unary(depth)
        sign = self._take(*_COMPARISONS)
        if sign is None:
            return left
        tree = Compare(sign.text, left, self._unary(depth))
        again = self._peek()
        if again is not None and again.kind != "text" and again.text in _COMPARISONS:
            raise SyntaxFault("two comparisons in a row: join them by &&", again.at)
        return tree

    def _unary(self, depth: int) -> Tree:
        if self._take("!"):
            if depth >= MAX_DEPTH:
                raise SyntaxFault(
                    f"an expression nested deeper than {MAX_DEPTH}: split it", self._tokens[self._next - 1].at
                )
            return Not(self._unary(depth + 1))
        for opening, closing in (("(", ")"), ("${", "}")):
            if self._take(opening):
                tree = self._any(depth + 1)
                if not self._take(closing):
                    raise self._unexpected(self._peek(), f'"{closing}"')
                return self._further(tree)
        if self._take("["):
            return self._list(depth)
        return self._value()

    def _further(self, tree: Tree) -> Tree:
        """Refuse `(a).b`: a way into a value is written inside the brackets."""
        token = self._peek()
        if token is not None and token.kind == "mark" and token.text in (".", "["):
            raise SyntaxFault("write the way into a value inside the brackets: ${a.b[0]}", token.at)
        return tree

    def _list(self, depth: int) -> Tree:
        if depth >= MAX_DEPTH:
            raise SyntaxFault(
                f"an expression nested deeper than {MAX_DEPTH}: split it", self._tokens[self._next - 1].at
            )
        items: list[Tree] = []
        while not self._take("]"):
            if items and not self._take(","):
                raise self._unexpected(self._peek(), '"," or "]"')
            items.append(self._any(depth + 1))
        return Several(tuple(items))

    def _value(self) -> Tree:
        token = self._peek()
        if token is None:
            raise self._unexpected(None, "a name or a value")
        self._next += 1
        match token.kind:
            case "number":
                return Literal(_number(token))
            case "text":
                return Literal(_unquoted(token))
            case "name" if token.text in _WORDS:
                return Literal(_WORDS[token.text])
            case "name" if token.text not in ("in", "and", "or", "not", "is", "True", "False", "None"):
                return self._reference(token)
        if token.text == "-" and (number := self._peek()) is not None and number.kind == "number":
            self._next += 1
            return Literal(-_number(number))
        raise self._unexpected(token, "a name or a value")

    def _reference(self, name: _Token) -> Reference:
        steps: list[str | int] = [name.text]
        while True:
            if self._take("."):
                token = self._peek()
                if token is None or token.kind != "name":
                    raise self._unexpected(token, 'the name of a field behind "."')
                self._next += 1
                steps.append(token.text)
            elif self._take("["):
                token = self._peek()
                if token is None or token.kind not in ("number", "text"):
                    raise self._unexpected(token, "a whole number or a name in quotes")
                self._next += 1
                step = _number(token) if token.kind == "number" else _unquoted(token)
                if isinstance(step, float):
                    raise SyntaxFault(f"expected a whole number, found {token.text}", token.at)
                steps.append(step)
                if not self._take("]"):
                    raise self._unexpected(self._peek(), '"]"')
            elif (token := self._peek()) is not None and token.text == "(" and token.kind == "mark":
                raise SyntaxFault("there are no functions in cards: have a capability do it", token.at)
            else:
                return Reference(tuple(steps))


def _number(token: _Token) -> int | float:
    if len(token.text) > MAX_NUMBER_CHARS:
        raise SyntaxFault(f"a number of {len(token.text)} characters: at most {MAX_NUMBER_CHARS}", token.at)
    if token.text.isdigit():
        return int(token.text)
    value = float(token.text)
    if value == float("inf"):
        raise SyntaxFault(f"the number {token.text} is out of range", token.at)
    return value


def _unquoted(token: _Token) -> str:
    inner = token.text[1:-1]
    if "${" in inner:
        raise SyntaxFault("${...} in quotes is plain text here: write it without the quotes", token.at)

    def replaced(found: re.Match[str]) -> str:
        if found[1]:
            code = int(found[1], 16)
            if 0xD800 <= code <= 0xDFFF:
                raise SyntaxFault(
                    "half of a surrogate pair, which is no character: write the character", token.at
                )
            return chr(code)
        if found[2] not in _ESCAPES:
            raise SyntaxFault(f"the escape {quote(found.group())} is not known", token.at)
        return _ESCAPES[found[2]]

    return _ESCAPE.sub(replaced, inner)


def references(tree: Tree) -> Iterator[Reference]:
    """Yield every reference of a tree, from left to right."""
    match tree:
        case Reference():
            yield tree
        case Several(items) | Junction(_, items):
            for item in items:
                yield from references(item)
        case Not(inner):
            yield from references(inner)
        case Compare(_, left, right):
            yield from references(left)
            yield from references(right)
        case Literal():
            pass
