"""What a node promises for a capability, decoded once and kept: schema, timeout, idempotency."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roster.errors import DocumentError, InvalidParamsError
from roster.passport import SchemaValidator
from roster.registry import NodeRecord

logger = logging.getLogger("roster.orchestrator")

_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Contract:
    """One capability of one registered passport."""

    capability: str
    validator: SchemaValidator | None
    idempotent: bool | None
    timeout: float | None

    def check(self, params: Mapping[str, Any]) -> None:
        """Hold params against the input schema before anything is sent.

        Raises:
            InvalidParamsError: naming every fault.
        """
        if self.validator is not None and (faults := self.validator.validate(params)):
            raise InvalidParamsError(
                f"params of {self.capability} are wrong: "
                + "; ".join(f"{fault.path or 'params'}: {fault.message}" for fault in faults)
            )


class Contracts:
    """Keeps the contracts of the nodes called lately. A lookup costs no decoding of the passport."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, int, str], Contract] = OrderedDict()

    def of(self, node: NodeRecord, capability: str) -> Contract:
        """Return the contract of a capability that the node has."""
        key = (node.key, node.uid, node.generation, capability)
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = _read(node, capability)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found


def _read(node: NodeRecord, capability: str) -> Contract:
    declared = node.passport.capability(capability)
    if declared is None:  # the record changed between index and here; the node itself will refuse
        return Contract(capability, None, None, None)
    validator: SchemaValidator | None = None
    try:
        schema = declared.caller_json_schema
        validator = SchemaValidator.of(schema) if schema is not None else None
    except DocumentError as error:
        # Whoever registered it wrote it past our checks. The node itself has the last word on its params.
        logger.warning(
            "%s declares %s with a schema that cannot be used: %s",
            node.key,
            capability,
            error,
            extra={"node": node.key, "capability": capability},
        )
    return Contract(
        capability,
        validator,
        declared.idempotent,
        declared.timeout,
    )
