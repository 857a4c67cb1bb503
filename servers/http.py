"""One HTTP request to a server on loopback, with a deadline."""

from __future__ import annotations

import http.client
import json
from typing import Any

from servers.ports import LOOPBACK


def request(
    port: int,
    path: str,
    *,
    method: str = "GET",
    body: Any = None,
    token: str | None = None,
    timeout: float = 2.0,
) -> tuple[int, str]:
    """Return status and body of an answer.

    Args:
        port: where the server listens, without TLS.
        path: with the query.
        method: the method.
        body: sent as JSON.
        token: a Consul token.
        timeout: seconds for connecting, and for each read.

    Raises:
        OSError: nobody answers there, or what answers is no HTTP.
    """
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=timeout)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"X-Consul-Token": token} if token else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except http.client.HTTPException as error:
        raise ConnectionError(f"no HTTP answer on port {port}: {type(error).__name__}") from error
    finally:
        connection.close()
