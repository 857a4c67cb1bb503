"""An agent that asks a language model behind any OpenAI-compatible URL: a provider's, or vLLM, llama.cpp, Ollama at home.

`LLM_BASE_URL` (such as http://127.0.0.1:11434/v1) and `LLM_MODEL` say where and which; `LLM_API_KEY` is sent where it is
set, and shown nowhere. `LLM_TOKENS_FIELD` is what the server calls the limit of an answer, if not `max_tokens`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from examples.agents.starting import main
from roster import Code, Context, Node, RemoteError
from roster.errors import ConfigError

MAX_BYTES = 2 * 1024 * 1024  # of an answer as it comes over the line
MAX_PROMPT = 512 * 1024  # characters
DEADLINE = 120.0  # seconds, where the command has none
CONNECT = 10.0
_MOST_OF_AN_ERROR = 16 * 1024
_SAID = 200  # characters of a server's own words in an error
_CODES = {
    400: (Code.INVALID_ARGUMENT, False),
    401: (Code.UNAUTHENTICATED, False),
    402: (Code.RESOURCE_EXHAUSTED, False),  # no money left: waiting does not help
    403: (Code.PERMISSION_DENIED, False),
    404: (Code.NOT_FOUND, False),
    408: (Code.DEADLINE_EXCEEDED, True),
    409: (Code.ABORTED, True),
    413: (Code.INVALID_ARGUMENT, False),
    422: (Code.INVALID_ARGUMENT, False),
    429: (Code.RESOURCE_EXHAUSTED, True),
    500: (Code.INTERNAL, True),
    501: (Code.UNIMPLEMENTED, False),
    504: (Code.DEADLINE_EXCEEDED, True),
}


@dataclass(frozen=True)
class Model:
    """Where the model is, and how it is asked.

    Attributes:
        url: of `/chat/completions`.
        name: what the server calls it.
        key: sent as a bearer token; empty for none.
        tokens_field: what the server calls the limit of an answer.
    """

    url: str
    name: str
    key: str = field(default="", repr=False)
    tokens_field: str = "max_tokens"

    @classmethod
    def from_environment(cls) -> Model:
        """Read `LLM_BASE_URL`, `LLM_MODEL`, `LLM_API_KEY` and `LLM_TOKENS_FIELD`.

        Raises:
            ConfigError: one is missing or makes no sense; the message never holds the key.
        """
        base, name = os.environ.get("LLM_BASE_URL", ""), os.environ.get("LLM_MODEL", "")
        for variable, value in (("LLM_BASE_URL", base), ("LLM_MODEL", name)):
            if not value:
                raise ConfigError(
                    f"{variable} is not set: an OpenAI-compatible URL and the name of a model are needed"
                )
        if "@" in base:
            raise ConfigError("LLM_BASE_URL: a password does not belong in it: put the key into LLM_API_KEY")
        if not _is_base(base):
            raise ConfigError("LLM_BASE_URL: expected a URL such as https://host/v1, without a query")
        key = os.environ.get("LLM_API_KEY", "")
        if not key.isascii() or any(not letter.isprintable() or letter.isspace() for letter in key):
            raise ConfigError("LLM_API_KEY: a key has no spaces and no other letters than ASCII")
        tokens_field = os.environ.get("LLM_TOKENS_FIELD") or "max_tokens"
        return cls(f"{base.rstrip('/')}/chat/completions", name, key, tokens_field)

    @property
    def host(self) -> str:
        """The server, as it may be shown."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")

    def error(self, message: str, code: Code, *, retryable: bool, **details: Any) -> RemoteError:
        """Return an error that names the server, and does not repeat a key that a server has echoed."""
        if self.key:
            message = message.replace(self.key, "[key]")
        return RemoteError(f"{self.host}: {message}", code=code, retryable=retryable, details=details)


def _is_base(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is none
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)


@dataclass
class Answer:
    """What came so far."""

    text: list[str] = field(default_factory=list)
    finish_reason: str = ""
    model: str = ""
    tokens: dict[str, int] = field(default_factory=dict)

    def take(self, data: Any, where: str) -> str:
        """Take in a whole answer (`where` is `message`) or a piece of one (`delta`); return its text.

        Raises:
            ValueError: it is nothing of the kind.
        """
        choices = data.get("choices") if isinstance(data, dict) else None
        if not isinstance(choices, list):
            raise ValueError("no choices in it")
        if isinstance(model := data.get("model"), str):
            self.model = model
        if isinstance(usage := data.get("usage"), dict):
            self.tokens = {name: count for name, count in usage.items() if isinstance(count, int)}
        if not choices:  # the last piece may hold nothing but the usage
            return ""
        choice = choices[0] if isinstance(choices[0], dict) else {}
        said = choice.get(where)
        piece = said.get("content") if isinstance(said, dict) else None
        if isinstance(reason := choice.get("finish_reason"), str):
            self.finish_reason = reason
        if piece is not None and not isinstance(piece, str):
            raise ValueError(f"{where}.content is no text")
        self.text.append(piece or "")
        return piece or ""


def make(passport: str | os.PathLike[str]) -> Node:
    """Return the node of a passport.

    Raises:
        ConfigError: the environment names no model.
    """
    node = Node.load(passport)
    model = Model.from_environment()

    @node.capability("complete_text")
    async def complete_text(
        prompt: str,
        context: Context,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> dict[str, Any]:
        if len(prompt) + len(system or "") > MAX_PROMPT:
            raise RemoteError(
                f"the prompt is longer than {MAX_PROMPT} characters", code=Code.INVALID_ARGUMENT
            )
        messages = [{"role": "system", "content": system}] if system else []
        body: dict[str, Any] = {
            "model": model.name,
            "messages": [*messages, {"role": "user", "content": prompt}],
            "stream": True,
        }
        if max_tokens is not None:
            body[model.tokens_field] = max_tokens
        if temperature is not None:
            body["temperature"] = temperature
        answer = await ask(model, body, context)
        return {
            "text": "".join(answer.text),
            "model": answer.model or model.name,
            "finish_reason": answer.finish_reason,
            "tokens": answer.tokens,
        }

    return node


async def ask(model: Model, body: dict[str, Any], context: Context) -> Answer:
    """Send a request, and tell the caller each piece of the answer as it comes.

    Raises:
        RemoteError: with the code and `retryable` that the cause asks for.
    """
    remaining = context.remaining
    seconds = DEADLINE if remaining is None else max(remaining, 0.001)
    headers = {"Authorization": f"Bearer {model.key}"} if model.key else {}
    timeout = aiohttp.ClientTimeout(total=seconds, connect=CONNECT)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            # A redirect is not followed: the key is for this server alone.
            session.post(model.url, json=body, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise await _refused(model, response)
            if response.content_type == "text/event-stream":
                return await _stream(model, response, context)
            data = json.loads(await _whole(model, response))
            if isinstance(data, dict) and "error" in data:
                raise _said_no(model, data["error"])
            answer = Answer()
            answer.take(data, "message")
            return answer
    except TimeoutError as error:
        raise model.error(
            f"no whole answer within {seconds:.3g} s", Code.DEADLINE_EXCEEDED, retryable=True
        ) from error
    except aiohttp.ClientConnectionError as error:
        raise model.error(f"cannot be reached: {error}", Code.UNAVAILABLE, retryable=True) from error
    except aiohttp.ClientError as error:
        raise model.error(
            f"the answer broke off: {type(error).__name__}", Code.UNAVAILABLE, retryable=True
        ) from error
    except (ValueError, RecursionError) as error:
        raise model.error(
            f"the answer is not that of an OpenAI-compatible server ({str(error)[:_SAID]}): look at LLM_BASE_URL",
            Code.FAILED_PRECONDITION,
            retryable=False,
        ) from error


async def _whole(model: Model, response: aiohttp.ClientResponse) -> bytes:
    """Return a body, of at most `MAX_BYTES`."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        _bound(model, len(body))
    return bytes(body)


async def _stream(model: Model, response: aiohttp.ClientResponse, context: Context) -> Answer:
    """Follow server-sent events up to `[DONE]`."""
    answer = Answer()
    async for data in _events(model, response):
        if data == b"[DONE]":
            return answer
        piece = json.loads(data)
        if isinstance(piece, dict) and "error" in piece:
            raise _said_no(model, piece["error"])
        if text := answer.take(piece, "delta"):
            context.progress(text=text)
    if not answer.finish_reason:
        raise model.error("the answer broke off in the middle", Code.UNAVAILABLE, retryable=True)
    return answer


async def _events(model: Model, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the data of each event. These servers put each on one line."""
    read = 0
    rest = b""
    async for piece in response.content.iter_any():
        read += len(piece)
        _bound(model, read)
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
    if rest.startswith(b"data:"):
        yield rest[5:].strip()


def _bound(model: Model, size: int) -> None:
    if size > MAX_BYTES:
        raise model.error(f"the answer is larger than {MAX_BYTES} bytes", Code.OUT_OF_RANGE, retryable=False)


async def _refused(model: Model, response: aiohttp.ClientResponse) -> RemoteError:
    """Return the error of a status that is not 200."""
    status = response.status
    if 300 <= status < 400:
        return model.error(
            f"HTTP {status}, a redirect: redirects are not followed; set LLM_BASE_URL to where the server is",
            Code.FAILED_PRECONDITION,
            retryable=False,
        )
    code, retryable = _CODES.get(
        status, (Code.UNAVAILABLE, True) if status >= 500 else (Code.FAILED_PRECONDITION, False)
    )
    try:
        body = await response.content.readexactly(_MOST_OF_AN_ERROR)
    except asyncio.IncompleteReadError as error:  # the usual: it is shorter
        body = error.partial
    try:
        said = json.loads(body)["error"]
        words = str(said["message"] if isinstance(said, dict) else said)
    except (ValueError, LookupError, TypeError, RecursionError):
        said, words = None, body.decode("utf-8", "replace")
    if isinstance(said, dict) and said.get("code") == "insufficient_quota":
        retryable = False  # OpenAI says 429 for an empty account too
    details: dict[str, Any] = {"status": status}
    after = response.headers.get("Retry-After", "")
    if after.isascii() and after.isdigit() and len(after) < 6:
        details["retry_after"] = int(after)
    words = " ".join(words.split())[:_SAID]
    return model.error(f"HTTP {status}: {words or response.reason}", code, retryable=retryable, **details)


def _said_no(model: Model, error: Any) -> RemoteError:
    """Return the error that stands in an answer instead of a text."""
    words = str(error.get("message", "") if isinstance(error, dict) else error)
    return model.error(f"an error instead of an answer: {words[:_SAID]}", Code.UNAVAILABLE, retryable=True)


if __name__ == "__main__":
    main(make, "llm-001.yaml")
