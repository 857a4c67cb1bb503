"""The agent for language models, against a server on loopback that answers, and misbehaves, as such servers do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.examples.conftest import Play

from examples.agents import llm
from examples.agents.starting import PASSPORTS
from examples.teams import EXAMPLES
from roster import CallTimeoutError, Code, RemoteError
from roster.errors import ConfigError
from roster.testing import Team

KEY = "sk-secret-4711"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """A model's server: what it was asked, and how it answers."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answers: list[Answer] = []
        self.gone = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        self.keys.append(request.headers.get("Authorization"))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(request)


def says(text: str) -> Answer:
    """Answer at once, as servers do that know no streams."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response(
            {
                "model": "tiny-1",
                "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 2, "details": {}},
            }
        )

    return answer


def streams(*events: str, cut: bool = False) -> Answer:
    """Answer in server-sent events."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            await response.write(f"data: {event}\n\n".encode())
        if cut:
            assert request.transport is not None
            request.transport.close()
        return response

    return answer


def piece(text: str | None, reason: str | None = None) -> str:
    return json.dumps({"model": "tiny-1", "choices": [{"delta": {"content": text}, "finish_reason": reason}]})


def fails(status: int, body: Any = None, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, str):
            return web.Response(status=status, text=body, headers=named)
        return web.json_response(body or {"error": {"message": "no"}}, status=status, headers=named)

    return answer


def body(content: bytes, kind: str = "application/json") -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=content, content_type=kind)

    return answer


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """A server, to which the environment leads."""
    made = Server()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", made.handle)
    async with TestServer(app) as running:
        monkeypatch.setenv("LLM_BASE_URL", str(running.make_url("/v1")))
        monkeypatch.setenv("LLM_MODEL", "tiny")
        monkeypatch.setenv("LLM_API_KEY", KEY)
        monkeypatch.delenv("LLM_TOKENS_FIELD", raising=False)
        yield made
        made.gone.set()


@asynccontextmanager
async def one_agent() -> AsyncIterator[Team]:
    async with Team() as team:
        await team.add_node(llm.make(PASSPORTS / "llm-001.yaml"))
        yield team


async def error_of(server: Server, answer: Answer, *, timeout: float = 30) -> RemoteError:
    server.answers = [answer]
    async with one_agent() as team:
        with pytest.raises(RemoteError) as caught:
            await team.call("complete_text", {"prompt": "Hello"}, timeout=timeout)
    assert KEY not in repr(caught.value)
    assert KEY not in str(caught.value)
    assert KEY not in json.dumps(caught.value.details)
    return caught.value


# -- answers --------------------------------------------------------------------------------------------------


async def test_it_asks_as_openai_is_asked_and_brings_the_text(server: Server) -> None:
    server.answers = [says("Hi there")]
    async with one_agent() as team:
        answer = await team.call(
            "complete_text", {"prompt": "Hello", "system": "Be short", "max_tokens": 9, "temperature": 0.2}
        )
    assert answer == {
        "text": "Hi there",
        "model": "tiny-1",
        "finish_reason": "stop",
        "tokens": {"prompt_tokens": 7, "completion_tokens": 2},
    }
    assert server.asked == [
        {
            "model": "tiny",
            "messages": [{"role": "system", "content": "Be short"}, {"role": "user", "content": "Hello"}],
            "stream": True,
            "max_tokens": 9,
            "temperature": 0.2,
        }
    ]
    assert server.keys == [f"Bearer {KEY}"]


async def test_a_stream_is_told_piece_by_piece(server: Server) -> None:
    usage = json.dumps({"choices": [], "usage": {"completion_tokens": 2}})
    server.answers = [streams(piece(None), piece("Good "), piece("day"), piece("", "stop"), usage, "[DONE]")]
    async with one_agent() as team:
        events = [event async for event in team.orchestrator.stream("complete_text", {"prompt": "Hello"})]
    assert [event.data["text"] for event in events if event.type == "progress"] == ["Good ", "day"]
    assert events[-1].data == {
        "text": "Good day",
        "model": "tiny-1",
        "finish_reason": "stop",
        "tokens": {"completion_tokens": 2},
    }


async def test_a_server_without_a_key_is_sent_none(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLM_API_KEY")
    monkeypatch.setenv("LLM_TOKENS_FIELD", "max_completion_tokens")
    server.answers = [says("Hi")]
    async with one_agent() as team:
        await team.call("complete_text", {"prompt": "Hello", "max_tokens": 5})
    assert server.keys == [None]
    assert server.asked[0]["max_completion_tokens"] == 5


# -- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (400, Code.INVALID_ARGUMENT, False),
        (401, Code.UNAUTHENTICATED, False),
        (403, Code.PERMISSION_DENIED, False),
        (404, Code.NOT_FOUND, False),
        (418, Code.FAILED_PRECONDITION, False),
        (429, Code.RESOURCE_EXHAUSTED, True),
        (500, Code.INTERNAL, True),
        (503, Code.UNAVAILABLE, True),
        (504, Code.DEADLINE_EXCEEDED, True),
        (529, Code.UNAVAILABLE, True),
    ],
)
async def test_a_status_becomes_a_code(server: Server, status: int, code: Code, retryable: bool) -> None:
    error = await error_of(server, fails(status, {"error": {"message": f"bad key {KEY}"}}))
    assert (error.code, error.retryable, error.details["status"]) == (code, retryable, status)
    assert f"HTTP {status}: bad key [key]" in error.summary
    assert "http://127.0.0.1:" in error.summary


async def test_too_many_requests_say_when_to_come_back(server: Server) -> None:
    error = await error_of(server, fails(429, "slow down", Retry_After="7"))
    assert error.details["retry_after"] == 7
    assert "HTTP 429: slow down" in error.summary


async def test_an_empty_account_is_not_asked_again(server: Server) -> None:
    error = await error_of(
        server, fails(429, {"error": {"message": "no money", "code": "insufficient_quota"}})
    )
    assert not error.retryable


async def test_a_redirect_is_not_followed_with_the_key(server: Server) -> None:
    error = await error_of(server, fails(307, "", Location="https://elsewhere.example/v1"))
    assert error.code == Code.FAILED_PRECONDITION
    assert "redirects are not followed" in error.summary
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"<html>Welcome</html>", b"", b"[]", b"7", b"{}", b'{"choices": 7}', b"\xff\xfe", b"[" * 100_000,
        b'{"choices": [{"message": {"content": 7}}]}', b"data: x\n",
    ],
    ids=range(10),
)  # fmt: skip
async def test_garbage_says_to_look_at_the_url(server: Server, content: bytes) -> None:
    error = await error_of(server, body(content))
    assert error.code == Code.FAILED_PRECONDITION
    assert "look at LLM_BASE_URL" in error.summary
    assert not error.retryable


async def test_garbage_in_a_stream_is_garbage(server: Server) -> None:
    error = await error_of(server, streams(piece("Good "), "{not json"))
    assert "look at LLM_BASE_URL" in error.summary


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_an_answer_without_end_is_cut_off(server: Server, kind: str) -> None:
    error = await error_of(server, body(b" " * (llm.MAX_BYTES + 1), kind))
    assert (error.code, error.retryable) == (Code.OUT_OF_RANGE, False)


@pytest.mark.parametrize("cut", [False, True])
async def test_a_stream_that_breaks_off_may_be_tried_again(server: Server, cut: bool) -> None:
    error = await error_of(server, streams(piece("Good "), cut=cut))
    assert (error.code, error.retryable) == (Code.UNAVAILABLE, True)
    assert "broke off" in error.summary


@pytest.mark.parametrize(
    "answer",
    [
        body(b'{"error": {"message": "overloaded"}}'),
        streams(piece("Good"), '{"error": {"message": "overloaded"}}'),
    ],
)
async def test_an_error_in_place_of_an_answer_is_one(server: Server, answer: Answer) -> None:
    error = await error_of(server, answer)
    assert (error.code, error.retryable) == (Code.UNAVAILABLE, True)
    assert "overloaded" in error.summary


async def test_a_server_that_hangs_is_left_at_the_deadline(server: Server) -> None:
    async def hang(_: web.Request) -> web.StreamResponse:
        await server.gone.wait()
        return web.Response()

    server.answers = [hang]
    async with one_agent() as team:
        # Whoever is first to say so, the agent or its node: it is over.
        with pytest.raises((RemoteError, CallTimeoutError)) as caught:
            await team.call("complete_text", {"prompt": "Hello"}, timeout=0.5)
        assert caught.value.code == Code.DEADLINE_EXCEEDED
        server.answers = [says("Hi")]
        assert (await team.call("complete_text", {"prompt": "Hello"}))["text"] == "Hi"


async def test_nobody_there_is_unavailable(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    listening = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    listening.close()
    await listening.wait_closed()
    monkeypatch.setenv("LLM_BASE_URL", f"http://127.0.0.1:{port}")
    error = await error_of(server, says("never"))
    assert (error.code, error.retryable) == (Code.UNAVAILABLE, True)
    assert server.asked == []


async def test_a_prompt_that_is_too_long_is_not_sent(server: Server) -> None:
    async with one_agent() as team:
        with pytest.raises(RemoteError, match="longer than"):
            await team.call("complete_text", {"prompt": "x" * (llm.MAX_PROMPT + 1)})
    assert server.asked == []


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"LLM_BASE_URL": ""}, "LLM_BASE_URL is not set"),
        ({"LLM_MODEL": ""}, "LLM_MODEL is not set"),
        ({"LLM_BASE_URL": "ftp://host"}, "expected a URL"),
        ({"LLM_BASE_URL": "http://"}, "expected a URL"),
        ({"LLM_BASE_URL": "http://[::1"}, "expected a URL"),
        ({"LLM_BASE_URL": "http://host:99999/v1"}, "expected a URL"),
        ({"LLM_BASE_URL": f"http://host/v1?key={KEY}"}, "without a query"),
        ({"LLM_BASE_URL": f"http://user:{KEY}@host/v1"}, "put the key into LLM_API_KEY"),
        ({"LLM_API_KEY": f"{KEY}\nX-Other: 1"}, "no spaces"),
        ({"LLM_API_KEY": f"{KEY}é"}, "ASCII"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused_without_the_key(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    sensible = {"LLM_BASE_URL": "http://127.0.0.1:1/v1", "LLM_MODEL": "tiny", "LLM_API_KEY": KEY}
    for name, value in {**sensible, **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message) as caught:
        llm.make(PASSPORTS / "llm-001.yaml")
    assert KEY not in str(caught.value)
    monkeypatch.setenv("LLM_BASE_URL", sensible["LLM_BASE_URL"])
    monkeypatch.setenv("LLM_MODEL", "tiny")
    monkeypatch.setenv("LLM_API_KEY", KEY)
    assert KEY not in repr(llm.Model.from_environment())


# -- the card -------------------------------------------------------------------------------------------------

PLAIN = "Маяк горит ночью. Его видно далеко. Там живёт ветер."
HARD = "Осуществляемое автоматизированное функционирование навигационного оборудования обеспечивает безопасность."


async def test_a_brief_is_rewritten_until_it_is_plain(play: Play, server: Server) -> None:
    server.answers = [fails(500), says(HARD), says(PLAIN)]
    async with play("brief") as team:
        record = await team.orchestrator.run(EXAMPLES["brief"].path, {"file": "lighthouse.txt"}, timeout=60)
    assert record.state == "succeeded", record.error
    assert record.result == {"by": "tiny-1", "text": PLAIN}, [
        (one.id, one.state, one.error) for one in record.steps
    ]
    assert "Маяк на мысе" in server.asked[0]["messages"][1]["content"]
    assert HARD in server.asked[-1]["messages"][1]["content"]


async def test_without_the_model_the_main_sentences_are_the_brief(play: Play, server: Server) -> None:
    server.answers = [fails(401)]
    async with play("brief") as team:
        record = await team.orchestrator.run(EXAMPLES["brief"].path, {"file": "lighthouse.txt"}, timeout=60)
    assert record.state == "succeeded", record.error
    assert record.result["by"] == "rules"
    assert len(record.result["text"]) == 5
