"""From plain functions to the passport of a node that serves them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from roster.node.handlers import schemas_of
from roster.passport import NodePassport

Schema = Mapping[str, Any] | bool | str


def capability_of(
    name: str,
    function: Callable[..., Any],
    *,
    input_schema: Schema | None = None,
    output_schema: Schema | None = None,
    idempotent: bool | None = None,
    version: str | None = None,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Return a capability as a passport declares it; the function's annotations give the schemas that are not given.

    Raises:
        NodeError: the function cannot serve a capability.
    """
    given, returned = schemas_of(function)
    fields = {
        "name": name,
        "description": (function.__doc__ or "").strip().partition("\n")[0] or None,
        "input_schema": given if input_schema is None else input_schema,
        "output_schema": returned if output_schema is None else output_schema,
        "idempotent": idempotent,
        "version": version,
        "timeout": timeout,
    }
    return {key: value for key, value in fields.items() if value is not None}


def passport_of(
    name: str,
    *capabilities: Mapping[str, Any],
    namespace: str = "default",
    labels: Mapping[str, str] | None = None,
    capacity: int = 3,
    version: str = "1.0.0",
) -> NodePassport:
    """Return the passport of a node with these capabilities.

    Raises:
        DocumentError: something in it is wrong; lists every fault.
    """
    return NodePassport.from_dict(
        {
            "apiVersion": "ai-team.dev/v1",
            "kind": "NodePassport",
            "metadata": {"name": name, "namespace": namespace, "labels": dict(labels or {})},
            "spec": {
                "type": "agent",
                "version": version,
                "capabilities": [dict(one) for one in capabilities],
                "resources": {"max_concurrent_tasks": capacity},
            },
        }
    )


def name_of(capability: str, number: int) -> str:
    """Return a node's name made of a capability: `write_article` gives `write-article-1`."""
    words = re.sub(r"[^a-z0-9]+", "-", capability.lower()).strip("-")
    return f"{words[:50].strip('-') or 'node'}-{number}"
