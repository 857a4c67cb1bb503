"""The table of the passport: every field, what may stand in it, and what it means.

docs/passport-spec.md is this table in prose; `json_schema()` is it for editors.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from roster.passport.rules import (
    Anything,
    Boolean,
    Field,
    JsonSchema,
    ListOf,
    MapOf,
    Number,
    Object,
    Remembered,
    Report,
    Text,
)
from roster.passport.words import Path, describe

API_VERSION = "ai-team.dev/v1"
KIND = "NodePassport"
DEFAULT_NAMESPACE = "default"
DEFAULT_TYPE = "agent"
DEFAULT_STATE = "ready"
STATES = ("ready", "busy", "offline", "starting", "draining")
MAX_CAPABILITIES = 256
MAX_CONCURRENT_TASKS = 100_000
MAX_TIMEOUT = 30 * 24 * 3600

_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_LABEL_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# The expression that semver.org suggests.
_SEMVER = re.compile(
    r"(?:0|[1-9][0-9]*)\.(?:0|[1-9][0-9]*)\.(?:0|[1-9][0-9]*)"
    r"(?:-(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*))*)?"
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)
_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}):([0-9]{2})(?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)


def is_dns_label(text: str) -> bool:
    """Tell whether `text` is a DNS-1123 label, as names and namespaces are. Source: RFC 1123, Kubernetes."""
    return _DNS_LABEL.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """Tell whether `text` is a Kubernetes label key: `name`, or `prefix/name` with a DNS prefix."""
    prefix, slash, name = text.rpartition("/")
    if slash and (len(prefix) > 253 or not _DNS_SUBDOMAIN.fullmatch(prefix)):
        return False
    return _LABEL_PART.fullmatch(name) is not None


def is_label_value(text: str) -> bool:
    """Tell whether `text` is a Kubernetes label value: empty, or 1-63 characters."""
    return not text or _LABEL_PART.fullmatch(text) is not None


def is_capability_name(text: str) -> bool:
    """Tell whether `text` may name a capability (and a type, and a tag)."""
    return _WORD.fullmatch(text) is not None


def is_semver(text: str) -> bool:
    """Tell whether `text` is a version by semver.org 2.0.0, of at most 256 characters (npm's bound)."""
    return len(text) <= 256 and _SEMVER.fullmatch(text) is not None


def is_timestamp(text: str) -> bool:
    """Tell whether `text` is an RFC 3339 date and time with an offset; a leap second counts."""
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        return False
    day, minute, second = found.groups()
    try:
        datetime.fromisoformat(f"{day}T{minute}:{'59' if second == '60' else second}")
    except ValueError:
        return False
    return True


def _short(text: str) -> bool:
    return 1 <= len(text.encode()) <= 255 and not _CONTROL.search(text)


def _nonempty(text: str) -> bool:
    return 0 < len(text) <= 255


class SchemaField:
    """`input_schema` or `output_schema`: a JSON Schema or the shorthand."""

    def __init__(self, direction: str) -> None:
        self.direction = direction

    def check(self, value: Any, path: Path, report: Report) -> None:
        """Report what is neither; documents from the store are only looked at when a schema is used."""
        if not isinstance(value, dict | bool | str):
            report.fault(path, f"expected a map (shorthand or JSON Schema), found {describe(value)}")
            return
        if report.lenient:
            return
        from roster.passport.schema import check

        check(value, self.direction, path, report)

    def schema(self) -> JsonSchema:
        """Return what JSON Schema can say of it."""
        return {"type": ["object", "boolean", "string", "null"]}


def _constant(value: str) -> Text:
    return Text(f'"{value}", the only one that is known', value.__eq__, {"const": value})


_NAME = Text(
    "a DNS-1123 label (1-63 of a-z, 0-9 and -, with a letter or digit at both ends)",
    is_dns_label,
    {"pattern": f"^{_DNS_LABEL.pattern}$", "minLength": 1, "maxLength": 63},
)
_LABEL_KEY = Text(
    "a label key (1-63 of letters, digits, -, _ and ., with a letter or digit at both ends; "
    "a DNS prefix and / may stand before)",
    is_label_key,
    {"pattern": f"^(?:{_DNS_SUBDOMAIN.pattern}/)?{_LABEL_PART.pattern}$", "maxLength": 317},
)
_LABEL_VALUE = Text(
    "text that is a label value (at most 63 of ASCII letters, digits, -, _ and ., with a letter or digit "
    "at both ends; or empty)",
    is_label_value,
    {"pattern": f"^(?:{_LABEL_PART.pattern})?$", "maxLength": 63},
)
_ANY_TEXT = Text()
_SHORT = Text("text of 1 to 255 bytes without control characters", _short, {"minLength": 1, "maxLength": 255})
_WORD_RULE = Text(
    "a name (1-63 of ASCII letters, digits, _, . and -, a letter first)",
    is_capability_name,
    {"pattern": f"^{_WORD.pattern}$", "maxLength": 63},
)
_LOOSE_NAME = Text("text of 1 to 255 characters", _nonempty)
_VERSION = Text(
    "text that is a version by semver.org, such as 1.2.0",
    is_semver,
    {"pattern": f"^{_SEMVER.pattern}$", "maxLength": 256},
)
_TIME = Text(
    "text that is an RFC 3339 time, such as 2025-12-15T10:00:00Z",
    is_timestamp,
    {"pattern": f"^{_TIMESTAMP.pattern}$"},
)
_LOOSE_MAP = MapOf(_ANY_TEXT, _ANY_TEXT)


def _one_of(*values: str) -> Text:
    shown = ", ".join(f'"{value}"' for value in values)
    return Text(f"text that is one of {shown}", frozenset(values).__contains__, {"enum": list(values)})


CAPABILITY = Object(
    {
        "name": Field(
            _WORD_RULE,
            "What callers ask for. Unique in the passport.",
            required=True,
            examples=("write_article",),
            lenient=_LOOSE_NAME,
        ),
        "description": Field(_ANY_TEXT, "What it does, for people and for language models."),
        "version": Field(
            _VERSION,
            "Its own version; the node's (spec.version) when left out.",
            examples=("1.2.0",),
            lenient=_ANY_TEXT,
        ),
        "tags": Field(ListOf(_WORD_RULE, 64), "Words to group it by.", lenient=ListOf(_ANY_TEXT, 20_000)),
        "idempotent": Field(
            Boolean(),
            "true: doing it twice does no harm, so a slow call may be hedged. "
            "Left out: sent again when its executor is dead. "
            "false: never sent again after it may have started.",
        ),
        "timeout": Field(
            Number(0, MAX_TIMEOUT, whole=False, above=True),
            "Seconds that one call may take, unless its caller says.",
            examples=(30,),
        ),
        "input_schema": Field(
            SchemaField("input"),
            "The params: `name: type` shorthand (string, number, integer, boolean, object, array, any; "
            "`?` optional, `[]` list) "
            "or a JSON Schema (a key that begins with `$`, or `type: object`).",
            examples=({"topic": "string", "style": "string?"},),
        ),
        "output_schema": Field(
            SchemaField("output"),
            "The result: as input_schema, or one type word.",
            examples=({"article": "string"},),
        ),
    }
)

_CAPABILITIES = ListOf(CAPABILITY, MAX_CAPABILITIES, unique="name")

CONDITION = Object(
    {
        "type": Field(_LABEL_KEY, "What the condition speaks of.", required=True, examples=("Responsive",)),
        "status": Field(_one_of("True", "False", "Unknown"), "Whether it holds, as text.", required=True),
        "reason": Field(_ANY_TEXT, "One word for programs."),
        "message": Field(_ANY_TEXT, "A sentence for people."),
        "lastTransitionTime": Field(_TIME, "When `status` last changed."),
        "observedGeneration": Field(Number(0, 2**63 - 1), "The metadata.generation that it was seen at."),
    }
)

METADATA = Object(
    {
        "name": Field(
            _NAME, "The node's name, unique in its namespace.", required=True, examples=("writer-001",)
        ),
        "namespace": Field(
            _NAME, "The team it belongs to.", default=DEFAULT_NAMESPACE, examples=("ai-team",)
        ),
        "labels": Field(
            MapOf(_LABEL_KEY, _LABEL_VALUE),
            "What selectors match.",
            default={},
            examples=({"role": "writer"},),
            lenient=_LOOSE_MAP,
        ),
        "annotations": Field(
            MapOf(
                Text(
                    "text of 1 to 317 characters without control characters", lambda key: 0 < len(key) <= 317
                ),
                _ANY_TEXT,
            ),
            "Notes in any language; nothing matches on them.",
            default={},
            lenient=_LOOSE_MAP,
        ),
        "uid": Field(_SHORT, "The registration (incarnation). Written by the registry."),
        "generation": Field(
            Number(0, 2**63 - 1), "How often metadata and spec changed. Written by the registry.", default=0
        ),
    }
)

COMMUNICATION = Object(
    {
        "mindbus_queue": Field(
            _SHORT,
            "The queue that its commands go to. Default: agent.{namespace}.{name}.",
            examples=("agent.writer.001",),
        ),
        "mindbus_routing_key": Field(
            _SHORT, "The binding of that queue on the exchange mindbus.main.", examples=("cmd.writer.#",)
        ),
    }
)

RESOURCES = Object(
    {
        "llm_model": Field(_ANY_TEXT, "The language model it works with.", examples=("gpt-4",)),
        "max_concurrent_tasks": Field(
            Number(1, MAX_CONCURRENT_TASKS), "Commands that it runs at once.", default=1, examples=(3,)
        ),
    },
    extra=True,
)

SPEC = Object(
    {
        "type": Field(
            _WORD_RULE,
            "agent, orchestrator, component, service, or a word of your own.",
            default=DEFAULT_TYPE,
            examples=("agent", "orchestrator", "component", "service"),
            lenient=_LOOSE_NAME,
        ),
        "version": Field(_VERSION, "The node's version.", examples=("1.0.0",), lenient=_ANY_TEXT),
        "capabilities": Field(
            _CAPABILITIES, "What it can do.", default=[], lenient=Remembered(_CAPABILITIES)
        ),
        "communication": Field(COMMUNICATION, "How to reach it."),
        "resources": Field(RESOURCES, "What it has; further keys are welcome."),
    }
)

STATUS = Object(
    {
        "state": Field(_one_of(*STATES), "What it is doing now.", default=DEFAULT_STATE, lenient=_LOOSE_NAME),
        "registered_at": Field(
            _TIME, "When it registered.", examples=("2025-12-15T10:00:00Z",), lenient=Anything()
        ),
        "last_heartbeat": Field(
            _TIME,
            "When it last said that it lives; shown, never compared.",
            examples=("2025-12-15T10:05:00Z",),
            lenient=Anything(),
        ),
        "active_tasks": Field(Number(0, 2**31), "Commands that it is running.", lenient=Anything()),
        "conditions": Field(
            ListOf(CONDITION, 64, unique="type"), "Further facts, as in Kubernetes.", lenient=Anything()
        ),
    }
)

PASSPORT = Object(
    {
        "apiVersion": Field(_constant(API_VERSION), "The version of this format.", required=True),
        "kind": Field(_constant(KIND), "What the document is.", required=True),
        "metadata": Field(METADATA, "Who the node is.", required=True),
        "spec": Field(SPEC, "What it declares.", required=True),
        "status": Field(STATUS, "How it is now. Optional in a file."),
    }
)


def json_schema() -> JsonSchema:
    """Return the JSON Schema (2020-12) of a passport, for editors and for `roster schema`.

    It says less than the full check does: byte lengths, duplicate capability names, calendar dates and the
    schemas of capabilities are beyond it. What it refuses, the full check refuses too.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Node Passport",
        "description": "What a node of an AI team declares: who it is, what it can do, how to reach it.",
        **PASSPORT.schema(),
        "examples": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "metadata": {"name": "writer-001", "namespace": "ai-team", "labels": {"role": "writer"}},
                "spec": {
                    "type": "agent",
                    "version": "1.0.0",
                    "capabilities": [{"name": "write_article", "input_schema": {"topic": "string"}}],
                },
            }
        ],
    }
