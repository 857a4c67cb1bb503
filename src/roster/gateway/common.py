"""What routes share: the answers that every one of them may give, and small helpers."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from fastapi import Request

from roster.gateway.problems import MEDIA_TYPE

JSON = "application/json"

_MEANINGS = {
    304: "It is as the tag in `If-None-Match` says.",
    400: "The request is malformed.",
    401: "No token, or not one that is known and in force.",
    403: "The token, or the page it comes from, may not do this.",
    404: "There is no such thing.",
    409: "It contradicts what is there.",
    410: "It was there and is over.",
    412: "It has changed since the tag in `If-Match`.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    421: "The host is none of this gateway's names.",
    422: "Parameters or body are wrong; `errors` says where.",
    429: "Too many requests; see `Retry-After`.",
    431: "The headers are too large.",
    501: "The extra that this needs is not installed.",
    502: "The node failed.",
    503: "The store, the bus or all nodes are not to be had at present; see `Retry-After`.",
    504: "No answer before the deadline.",
}
_ALWAYS = (400, 401, 403, 413, 421, 422, 429, 431, 503)


def ERRORS(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of the problems that a route may answer with, those of every route included."""
    return {
        status: {"description": _MEANINGS[status]}
        if status < 400
        else {
            "description": _MEANINGS[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemShape"}}},
        }
        for status in sorted({*_ALWAYS, *statuses})
    }


def page_of(request: Request, token: str) -> str:
    """Return the header `Link` to the next page, RFC 8288."""
    query = [(key, value) for key, value in request.query_params.multi_items() if key != "page"]
    return f'<{request.url.path}?{urlencode([*query, ("page", token)])}>; rel="next"'
