"""Passports that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from roster.errors import RosterError

ROOT = Path(__file__).resolve().parents[2]
FOUNDING = ROOT / "examples" / "passports" / "writer-001.yaml"


def small(**spec: Any) -> dict[str, Any]:
    """Return the smallest good passport, with these fields in its spec."""
    return {
        "apiVersion": "ai-team.dev/v1",
        "kind": "NodePassport",
        "metadata": {"name": "writer-001"},
        "spec": spec,
    }


def yaml_with(body: str) -> str:
    """Return passport YAML whose `spec` is `body` (indented by two)."""
    return f"apiVersion: ai-team.dev/v1\nkind: NodePassport\nmetadata:\n  name: writer-001\nspec:\n{body}"


def refusal(read: Callable[[], object]) -> RosterError | None:
    """Return the error that `read` ends in, or None; every other exception passes."""
    try:
        read()
    except RosterError as error:
        return error
    return None
