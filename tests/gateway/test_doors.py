"""Each door of the gateway is tried, and must be shut."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.conftest import BOUND, Served, Serving, events, team_passport, until

from roster.errors import ConfigError
from roster.gateway import Gateway, Limits, Settings
from roster.gateway.doors import host_name, may
from roster.gateway.settings import read_listen, room_for_connections
from roster.gateway.tokens import Principal, Tokens

READER, OPERATOR, NODE, OTHER, OLD = (word * 8 for word in ("read", "oper", "node", "othe", "oldd"))
NODES = "/api/v1/nodes"
POST = b"POST /api/v1/call HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def token_file(directory: Path, extra: str = "") -> Path:
    path = directory / "tokens.yaml"
    path.write_text(
        f"""tokens:
  - {{name: eyes, role: reader, sha256: "{_hash(READER)}"}}
  - {{name: hands, role: operator, sha256: "{_hash(OPERATOR)}", expires: 2999-01-01T00:00:00Z}}
  - {{name: counter, role: node, sha256: "{_hash(NODE)}", node: ai-team/counter-001,
     capabilities: [count_words, "translate_*"]}}
  - {{name: other, role: node, sha256: "{_hash(OTHER)}", node: ai-team/other-001, capabilities: ["*"], calls: true}}
  - {{name: left, role: operator, sha256: "{_hash(OLD)}", expires: 2020-01-01T00:00:00Z}}
{extra}"""
    )
    path.chmod(0o600)
    return path


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return token_file(tmp_path)


# -- tokens ------------------------------------------------------------------------------------------------------------


async def test_no_token_a_wrong_one_and_an_expired_one_are_turned_away(
    serving: Serving, tokens: Path
) -> None:
    async with serving(tokens=tokens) as served:
        found = [
            await served.client.get(NODES),
            await served.client.get(NODES, headers=served.as_("wrong" * 8)),
            await served.client.get(NODES, headers=served.as_(OLD)),
            await served.client.get(NODES, headers={"authorization": f"Basic {OPERATOR}"}),
            await served.client.get("/metrics"),
            await served.client.get("/api/v1/watch"),
        ]
        good = await served.client.get(NODES, headers=served.as_(READER))

    for answer in found:
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["type"].endswith(":unauthorized")
    assert good.status_code == 200


async def test_who_watches_over_the_gateway_needs_no_token(serving: Serving, tokens: Path) -> None:
    async with serving(tokens=tokens) as served:
        for path in ("/healthz", "/readyz", "/", "/openapi.json", "/api/v1/session"):
            assert (await served.client.get(path)).status_code == 200, path
        # A probe comes by address, or by whatever name its orchestrator gives the machine.
        assert (await served.client.get("/healthz", headers={"host": "pod-7.example"})).status_code == 200


async def test_a_reader_reads_and_changes_nothing(serving: Serving, tokens: Path) -> None:
    async with serving(tokens=tokens) as served:
        await served.gateway.registry.register(team_passport("counter-001", "count_words"))
        headers = served.as_(READER)
        own = f"{NODES}/ai-team/counter-001"
        changes = [
            await served.client.post(NODES, json=team_passport("x", "y"), headers=headers),
            await served.client.post("/api/v1/call", json={"capability": "count_words"}, headers=headers),
            await served.client.post(f"{own}/drain", headers=headers),
            await served.client.delete(f"{own}?force=true", headers=headers),
            await served.client.patch(own, json={"metadata": {"labels": {"a": "b"}}}, headers=headers),
            await served.client.get(f"{own}/commands?uid=x", headers=headers),
            await served.client.post(f"{own}/heartbeat", json={"uid": "x"}, headers=headers),
        ]

    assert [answer.status_code for answer in changes] == [403] * len(changes)


async def test_a_nodes_token_reaches_its_own_name_alone(serving: Serving, tokens: Path) -> None:
    async with serving(tokens=tokens) as served:
        mine, others = served.as_(NODE), served.as_(OTHER)
        own = f"{NODES}/ai-team/counter-001"
        made = await served.client.post(NODES, json=team_passport("counter-001", "count_words"), headers=mine)
        uid = made.json()["uid"]
        tries = [
            await served.client.post(NODES, json=team_passport("counter-001", "count_words"), headers=others),
            await served.client.post(
                f"{NODES}?takeover=true", json=team_passport("counter-001", "count_words"), headers=others
            ),
            await served.client.post(f"{own}/heartbeat", json={"uid": uid}, headers=others),
            await served.client.get(f"{own}/commands", params={"uid": uid}, headers=others),
            await served.client.get(f"{own}/commands/stream", params={"uid": uid}, headers=others),
            await served.client.post(
                f"{own}/commands/x/result", json={"uid": uid, "result": 1}, headers=others
            ),
            await served.client.post(
                f"{own}/commands/x/progress", json={"uid": uid, "data": {}}, headers=others
            ),
            await served.client.patch(own, json={"metadata": {"labels": {"a": "b"}}}, headers=others),
            await served.client.post(f"{own}/drain", headers=others),
            await served.client.post(f"{own}/undrain", headers=others),
            await served.client.delete(own, headers=others),
            await served.client.delete(f"{own}?force=true", headers=others),
            await served.client.post(
                NODES, json=team_passport("counter-001", "count_words", namespace="prod"), headers=mine
            ),
            await served.client.post("/api/v1/call", json={"capability": "count_words"}, headers=mine),
        ]
        alive = await served.client.post(f"{own}/heartbeat", json={"uid": uid}, headers=mine)
        stale = await served.client.post(f"{own}/heartbeat", json={"uid": "of-another-life"}, headers=mine)

    assert made.status_code == 201
    assert [answer.status_code for answer in tries] == [403] * len(tries), [answer.text for answer in tries]
    assert alive.status_code == 200
    assert stale.status_code == 409


async def test_a_nodes_token_declares_no_more_than_its_grant(serving: Serving, tokens: Path) -> None:
    def passport(
        *capabilities: str, labels: dict[str, str] | None = None, **communication: str
    ) -> dict[str, Any]:
        document = team_passport("counter-001", *capabilities, labels=labels)
        if communication:
            document["spec"]["communication"] = communication
        return document

    async with serving(tokens=tokens) as served:
        headers = served.as_(NODE)
        beyond = [
            passport("count_words", "drop_tables"),
            passport("Translate_de"),
            passport("count_words", labels={"restricted.ai-team.dev/tier": "gold"}),
            passport("count_words", labels={"a.restricted.ai-team.dev/tier": "gold"}),
            passport("count_words", mindbus_queue="agent.ai-team.other-001"),
            passport("count_words", mindbus_routing_key="cmd.#"),
        ]
        refused = [await served.client.post(NODES, json=one, headers=headers) for one in beyond]
        allowed = await served.client.post(
            NODES, json=passport("count_words", "translate_de"), headers=headers
        )
        patched = await served.client.patch(
            f"{NODES}/ai-team/counter-001",
            json={"metadata": {"labels": {"restricted.ai-team.dev/tier": None}}},
            headers=headers,
        )

    assert [answer.status_code for answer in refused] == [403] * len(refused), [
        answer.text for answer in refused
    ]
    assert allowed.status_code == 201
    assert patched.status_code == 403


async def test_restricted_labels_of_an_operator_outlive_the_nodes_registrations(
    serving: Serving, tokens: Path
) -> None:
    own = f"{NODES}/ai-team/counter-001"
    async with serving(tokens=tokens) as served:
        node, operator = served.as_(NODE), served.as_(OPERATOR)
        await served.client.post(NODES, json=team_passport("counter-001", "count_words"), headers=node)
        given = await served.client.patch(
            own, json={"metadata": {"labels": {"restricted.ai-team.dev/tier": "gold"}}}, headers=operator
        )
        again = await served.client.post(
            f"{NODES}?takeover=true", json=team_passport("counter-001", "count_words"), headers=node
        )

    assert given.status_code == 200
    assert again.status_code == 201
    assert again.json()["node"]["labels"] == {"restricted.ai-team.dev/tier": "gold"}


async def test_a_token_that_is_taken_out_of_the_file_is_out_of_force_and_its_stream_ends(
    serving: Serving, tokens: Path
) -> None:
    async with serving(tokens=tokens) as served:
        good = await served.client.get(NODES, headers=served.as_(READER))
        text = tokens.read_text().replace(_hash(READER), _hash("another" * 8))
        tokens.write_text(text + "\n")

        async def refused() -> bool:
            return (await served.client.get(NODES, headers=served.as_(READER))).status_code == 401

        await until(refused)

    assert good.status_code == 200


async def test_a_stream_ends_when_its_token_does(
    serving: Serving, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roster.gateway.nodes._KEEP_ALIVE", 0.05)
    async with (
        serving(tokens=tokens) as served,
        events(served, "/api/v1/watch", headers=served.as_(READER)) as stream,
    ):
        await stream.until("synced")
        tokens.write_text(tokens.read_text().replace(_hash(READER), _hash("another" * 8)))
        with pytest.raises(AssertionError, match="the stream ended"):
            await stream.until("never")


async def test_a_token_file_that_becomes_wrong_changes_nothing(
    tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = Tokens(tokens)
    with caplog.at_level(logging.ERROR, "roster.gateway"):
        tokens.write_text("tokens: [nonsense")
        known.refresh()
        known.refresh()

    assert known.find(READER) is not None
    assert len(caplog.records) == 1


def test_a_token_expires_at_its_moment(tmp_path: Path) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    path = token_file(
        tmp_path, f'  - {{name: soon, role: reader, sha256: "{_hash("soon" * 8)}", expires: "{soon}"}}\n'
    )
    principal = Tokens(path).find("soon" * 8)

    assert principal is not None
    assert not principal.expired(time.time())
    assert principal.expired(time.time() + 3601)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{name: x, role: king, sha256: SHA}", "role: expected reader, operator or node"),
        ("{name: x, role: reader, token: secret-secret-secret}", "token: expected sha256 in its place"),
        ("{name: x, role: reader, sha256: secret-secret-secret}", "sha256: expected 64 digits"),
        ("{name: x, role: node, sha256: SHA}", "node: expected NAMESPACE/NAME"),
        ("{name: x, role: node, sha256: SHA, node: a/../b}", "node: expected NAMESPACE/NAME"),
        ("{name: x, role: reader, sha256: SHA, node: a/b}", "node: expected role: node"),
        ("{name: x, role: reader, sha256: SHA, expires: soon}", "expires: expected a time"),
        ("{name: eyes, role: reader, sha256: SHA}", "another token of the name eyes"),
        ("{name: 'x y', role: reader, sha256: SHA}", "name: expected a name"),
        ("[secret-secret-secret]", "expected a token"),
    ],
)
def test_a_wrong_line_is_named_and_no_secret_is_repeated(tmp_path: Path, line: str, what: str) -> None:
    sha = _hash("y" * 32)
    path = token_file(tmp_path, f"  - {line.replace('SHA', repr(sha))}\n")
    with pytest.raises(ConfigError) as raised:
        Tokens(path)

    assert what in str(raised.value)
    assert "tokens.yaml:8" in str(raised.value)
    assert "secret" not in str(raised.value).replace("role: reader", "")


def test_a_token_file_that_others_can_write_or_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = token_file(tmp_path)
    path.chmod(0o622)
    with pytest.raises(ConfigError, match="chmod go-w"):
        Tokens(path)
    with pytest.raises(ConfigError, match="No such file"):
        Tokens(tmp_path / "nowhere")
    path.chmod(0o600)
    path.write_text("- just\n- a list\n")
    with pytest.raises(ConfigError, match="expected the one field `tokens`"):
        Tokens(path)


async def test_wrong_tokens_are_counted_and_shut_nobody_out_who_has_a_right_one(
    serving: Serving, tokens: Path
) -> None:
    async with serving(tokens=tokens, limits=Limits(failures=3)) as served:
        statuses = [
            (await served.client.get(NODES, headers=served.as_(f"guess-{number}"))).status_code
            for number in range(6)
        ]
        guess = await served.client.post("/api/v1/session", json={"token": "guess" * 8})
        right = await served.client.get(NODES, headers=served.as_(READER))
        login = await served.client.post("/api/v1/session", json={"token": READER})

    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert guess.status_code == 429
    assert int(guess.headers["retry-after"]) >= 1
    assert (right.status_code, login.status_code) == (200, 200)


async def test_no_secret_is_logged(serving: Serving, tokens: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with serving(tokens=tokens) as served:
            await served.client.get(NODES, headers=served.as_(OPERATOR))
            await served.client.get(NODES, headers=served.as_("wrong" * 8))
            await served.client.get(NODES, headers={"cookie": "roster_session=" + "wrong" * 8})
            await served.client.post("/api/v1/session", json={"token": OPERATOR})
            await served.client.post("/api/v1/session", json={"token": "wrong" * 8})
            await served.client.post(NODES, content=b"\xff" + OPERATOR.encode(), headers=served.as_(OPERATOR))

    log = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("roster"))
    assert "refused GET" in log
    for secret in (OPERATOR, "wrong" * 8, _hash(OPERATOR)):
        assert secret not in log


# -- sessions of browsers ----------------------------------------------------------------------------------------------


async def test_a_browser_exchanges_its_token_for_a_cookie_that_no_script_reads(
    serving: Serving, tokens: Path
) -> None:
    async with serving(tokens=tokens) as served:
        wrong = await served.client.post("/api/v1/session", json={"token": "wrong" * 8})
        begun = await served.client.post("/api/v1/session", json={"token": OPERATOR})
        cookie = begun.headers["set-cookie"]
        me = await served.client.get("/api/v1/session")
        read = await served.client.get(NODES)
        blind = await served.client.post(f"{NODES}/ai-team/x/drain")
        told = await served.client.post(f"{NODES}/ai-team/x/drain", headers={"origin": served.url})
        foreign = await served.client.post(
            f"{NODES}/ai-team/x/drain", headers={"origin": "https://evil.example"}
        )
        await served.client.delete("/api/v1/session", headers={"origin": served.url})
        value = cookie.partition(";")[0]
        over = await served.client.get(NODES, headers={"cookie": value})

    assert wrong.status_code == 401
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Strict", "Path=/", "Max-Age="))
    assert OPERATOR not in cookie
    assert (me.json()["authenticated"], me.json()["role"]) == (True, "operator")
    assert read.status_code == 200
    assert (blind.status_code, blind.json()["type"]) == (403, "urn:roster:problem:foreign-origin")
    assert told.status_code == 404  # let in: there is no such node
    assert foreign.status_code == 403
    assert over.status_code == 401


async def test_without_tokens_a_browser_is_told_so(served: Served) -> None:
    found = (await served.client.get("/api/v1/session")).json()

    assert found == {"authenticated": True, "name": "anybody", "role": "operator", "tokens": False}


# -- host, origin, CSRF ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8700", "127.0.0.1.evil.example", "localhost.evil.example", ""]
)
async def test_a_name_that_is_rebound_to_this_address_gets_nothing(served: Served, host: str) -> None:
    answer = await _raw(served, f"GET {NODES} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

    assert answer.startswith((b"HTTP/1.1 421", b"HTTP/1.1 400"))
    assert b"unknown-host" in answer or b"400" in answer


async def test_the_gateways_own_names_and_addresses_are_let_in(serving: Serving) -> None:
    async with serving(names=("roster.example.org",)) as served:
        for host in (
            "localhost",
            "127.0.0.1:8700",
            "[::1]:8700",
            "10.1.2.3",
            "ROSTER.example.org:443",
            "roster.example.org.",
        ):
            assert (await served.client.get(NODES, headers={"host": host})).status_code == 200, host


async def test_pages_from_elsewhere_get_nothing(serving: Serving) -> None:
    async with serving(origins=("https://desk.example.org",)) as served:
        for headers in (
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"origin": f"http://localhost:{served.port}"},  # another origin than the host that was asked
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
            {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
        ):
            for answer in (
                await served.client.get(NODES, headers=headers),
                await served.client.post("/api/v1/call", json={"capability": "x"}, headers=headers),
            ):
                assert answer.status_code == 403, headers
                assert "access-control-allow-origin" not in answer.headers
        for headers in (
            {"origin": served.url},
            {"origin": "https://desk.example.org"},
            {"sec-fetch-site": "same-origin"},
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
        ):
            assert (await served.client.get(NODES, headers=headers)).status_code == 200, headers


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "application/xml",
    ],
)
async def test_what_a_form_can_send_is_not_taken(served: Served, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = await served.client.post("/api/v1/call", content=b'{"capability": "x"}', headers=headers)

    assert (answer.status_code, answer.json()["type"]) == (415, "urn:roster:problem:not-json")


async def test_every_answer_says_what_a_browser_may_do_with_it(served: Served) -> None:
    for path in ("/", NODES, "/nowhere", "/healthz", "/static/nowhere"):
        headers = (await served.client.get(path)).headers
        assert headers["content-security-policy"].startswith("default-src 'none'"), path
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers


async def test_text_of_passports_is_escaped(served: Served) -> None:
    document = team_passport(
        "counter-001", {"name": "count_words", "description": "<script>alert(1)</script>\u202e\x1b[31m\u009b"}
    )
    document["metadata"]["annotations"] = {"note": "<img src=x onerror=alert(1)>"}
    await served.client.post(NODES, json=document)
    for path in (f"{NODES}/ai-team/counter-001", "/api/v1/capabilities", "/api/v1/capabilities/count_words"):
        raw = await served.client.get(path)
        for bad in (b"<", "\u202e".encode(), b"\x1b", "\u009b".encode()):
            assert bad not in raw.content, path
    assert raw.json()["description"].startswith("<script>")


# -- paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        f"{NODES}/../../etc/passwd",
        f"{NODES}/%2e%2e/%2e%2e",
        f"{NODES}/ai-team/..%2f..%2fetc%2fpasswd",
        f"{NODES}/ai-team/%00",
        f"{NODES}/ai-team/a%0d%0aSet-Cookie:x=y",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2f..%2f..%2fpyproject.toml",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
    ],
)
async def test_no_path_leads_out(served: Served, path: str) -> None:
    answer = await _raw(
        served, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    )

    assert answer.split(b" ")[1] in (b"400", b"404", b"422")
    assert b"Set-Cookie" not in answer.partition(b"\r\n\r\n")[0]
    assert b"root:" not in answer
    assert b"import" not in answer


# -- sizes, rates, connections, slowness -------------------------------------------------------------------------------


async def test_a_body_of_100_megabytes_is_refused_before_it_is_read(served: Served) -> None:
    answer = await _raw(served, POST + f"Content-Length: {100 * 2**20}\r\n\r\n".encode())

    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer.lower()


async def test_a_body_without_a_length_is_cut_off_at_the_limit(serving: Serving) -> None:
    async with serving(limits=Limits(body_bytes=10_000)) as served:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
        for _ in range(4):
            writer.write(chunk)
        async with asyncio.timeout(BOUND):
            line = await reader.readline()
        writer.close()

    assert line.startswith(b"HTTP/1.1 413")


async def test_headers_without_end_are_cut_off(served: Served) -> None:
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: "
    at_once = await _raw(served, head + b"a" * 50_000 + b"\r\n\r\n")
    endless = await _raw(served, head + b"a" * 300_000)

    assert at_once.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))
    assert endless.startswith(b"HTTP/1.1 400")
    assert b"application/problem+json" in endless


@pytest.mark.parametrize("beginning", [b"", b"GET /api/v1/nodes HTTP/1.1\r\nHost: local"])
async def test_headers_that_come_byte_by_byte_are_not_waited_for(serving: Serving, beginning: bytes) -> None:
    async with serving(limits=Limits(header_seconds=0.3)) as served:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        writer.write(beginning)
        ended = await _drip(reader, writer, b"X")

    assert ended.startswith(b"HTTP/1.1 408")


async def test_the_second_request_of_a_connection_has_a_deadline_too(serving: Serving) -> None:
    async with serving(limits=Limits(header_seconds=0.3)) as served:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(BOUND):
            assert (await reader.readuntil(b'{"status":"ok"}')).startswith(b"HTTP/1.1 200")
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: local")
        ended = await _drip(reader, writer, b"X")

    assert ended.startswith(b"HTTP/1.1 408")


async def test_a_body_that_comes_byte_by_byte_is_not_waited_for(serving: Serving) -> None:
    async with serving(limits=Limits(body_seconds=0.3)) as served:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        writer.write(POST + b"Content-Length: 100000\r\n\r\n")
        ended = await _drip(reader, writer, b" ")

    assert ended.startswith(b"HTTP/1.1 408")


async def test_a_request_that_takes_long_to_answer_is_not_cut_off(serving: Serving) -> None:
    async with serving(limits=Limits(header_seconds=0.2, body_seconds=0.2)) as served:
        made = await served.client.post(NODES, json=team_passport("counter-001", "count_words"))
        answer = await served.client.get(
            f"{NODES}/ai-team/counter-001/commands", params={"uid": made.json()["uid"], "wait": 1}
        )

    assert answer.json() == {"items": [], "after": 0}


async def test_a_reader_that_does_not_read_is_disconnected(serving: Serving) -> None:
    async with serving(limits=Limits(write_seconds=0.3)) as served:
        registry = served.gateway.registry
        wide = {"name": "count_words", "description": "x" * 5000}
        for number in range(20):
            await registry.register(
                team_passport(f"node-{number}", wide, labels={f"l{i}": "v" * 60 for i in range(40)})
            )
        await until(lambda: len(registry.informer.all()) == 20)
        with socket.create_connection((served.host, served.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            for _ in range(200):  # more answers than the kernel's buffers hold
                client.sendall(f"GET {NODES} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await until(lambda: served.gateway.connections() == 0)


async def test_connections_over_the_limit_are_told_so_and_closed(serving: Serving) -> None:
    async with serving(limits=Limits(connections=3)) as served:
        held = [await asyncio.open_connection(served.host, served.port) for _ in range(3)]
        await until(lambda: served.gateway.connections() == 3)
        reader, writer = await asyncio.open_connection(served.host, served.port)
        async with asyncio.timeout(BOUND):
            answer = await reader.read()
        for _, one in [*held, (reader, writer)]:
            one.close()
        await until(lambda: served.gateway.connections() == 0)
        served_again = await served.client.get("/healthz")

    assert answer.startswith(b"HTTP/1.1 503")
    assert b"too-many-connections" in answer
    assert served_again.status_code == 200


def test_connections_stay_below_the_limit_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    kept: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    monkeypatch.setattr(resource, "setrlimit", lambda *found: kept.append(found))
    assert room_for_connections(4096) == 1024 - 256
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 100_000))
    assert room_for_connections(4096) == 4096
    assert kept[-1][1] == (4352, 100_000)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (200, 200))
    assert room_for_connections(4096) == 1


async def test_who_comes_too_often_is_told_to_wait(serving: Serving) -> None:
    async with serving(limits=Limits(rate=0.5, burst=5)) as served:
        answers = [await served.client.get("/api/v1/session") for _ in range(7)]

    assert [answer.status_code for answer in answers[:4]] == [200] * 4
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1


async def test_streams_over_the_limit_are_refused(serving: Serving) -> None:
    async with serving(limits=Limits(streams=1)) as served, events(served, "/api/v1/watch") as stream:
        await stream.until("synced")
        second = await served.client.get("/api/v1/watch")

    assert (second.status_code, second.json()["type"]) == (503, "urn:roster:problem:too-many-streams")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"[" * 100_000, 400),
        (b'{"capability": "x", "params": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}", 400),
        (b'{"capability": "x"', 400),
        (b"\xff\xfe", 400),
        (b'{"capability": "x", "timeout": 1e999}', 422),
        (b'{"capability": "x", "timeout": NaN}', 422),
        (b'{"capability": "x", "priority": ' + b"9" * 5000 + b"}", 422),
        (b'{"capability": "x", "surprise": 1}', 422),
        (b"null", 422),
        (b"", 422),
    ],
)
async def test_a_hostile_body_is_refused_and_hurts_nobody(served: Served, raw: bytes, status: int) -> None:
    answer = await served.client.post(
        "/api/v1/call", content=raw, headers={"content-type": "application/json"}
    )

    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code in (status, 400, 422)
    assert (await served.client.get("/healthz")).status_code == 200


# -- where it listens --------------------------------------------------------------------------------------------------


def test_beyond_loopback_it_does_not_start_without_tokens(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "gateway.example.org"):
        with pytest.raises(ConfigError, match="token file"):
            Gateway(Settings(host=host))
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        Settings(host=host).check()
    Settings(host="0.0.0.0", tokens=token_file(tmp_path)).check()


@pytest.mark.parametrize(
    "text", ["", "8700", ":8700", "host:", "host:x", "host:70000", "::1:8700", "[::1", "h:²"]
)
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        read_listen(text)


# -- small rules -------------------------------------------------------------------------------------------------------


def test_host_headers_are_read_exactly() -> None:
    assert host_name("LOCALHOST:1") == "localhost"
    assert host_name("[::1]:80") == "::1"
    for bad in ("", "a b", "a:b", "a/b", "user@host", "a\r\nb", "[::1", "a:123456"):
        assert host_name(bad) is None


def test_roles_may_what_they_may() -> None:
    node = Principal("n", "node", node="a/b")
    caller = Principal("n", "node", node="a/b", calls=True)
    reader = Principal("r", "reader")

    assert may(caller, "POST", "/api/v1/call")
    assert not may(node, "POST", "/api/v1/call")
    for path in (
        "/api/v1/runs",
        "/api/v1/runs/x/cancel",
        "/api/v1/nodes/a/b/other",
        "/api/v1/whatever/comes/next",
    ):
        assert not may(caller, "POST", path)
        assert not may(reader, "POST", path)
    assert not may(reader, "GET", "/api/v1/nodes/a/b/commands/stream")


async def _raw(served: Served, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(served.host, served.port)
    try:
        writer.write(request)
        async with asyncio.timeout(BOUND):
            found = b""
            while b"\r\n\r\n" not in found and (piece := await reader.read(65536)):
                found += piece
            head = found.lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            while len(found.partition(b"\r\n\r\n")[2]) < length and (piece := await reader.read(65536)):
                found += piece
        return found
    finally:
        writer.close()


async def _drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, byte: bytes) -> bytes:
    """Send a byte now and then until the other side ends it; return what it said."""

    async def drip() -> None:
        while True:
            writer.write(byte)
            await writer.drain()
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    try:
        async with asyncio.timeout(BOUND):
            return await reader.read(200)
    finally:
        dripping.cancel()
        await asyncio.wait([dripping])
        if not dripping.cancelled():
            dripping.exception()
        writer.close()
