"""The passport as an object: read from any text, read-only, and written back exactly."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import Any, NoReturn

from roster.errors import DocumentError, Fault
from roster.passport import fields, json_text
from roster.passport.capability import Capability
from roster.passport.limits import FILE, STORED
from roster.passport.plain import plain
from roster.passport.reading import Document, ReadError, decode, read
from roster.passport.rules import Object, Report, check_tree, fingerprint
from roster.passport.views import view
from roster.passport.words import describe
from roster.passport.writing import to_json, to_yaml

_EMPTY: Mapping[str, str] = MappingProxyType({})


class NodePassport(Mapping[str, Any]):
    """What a node declares. Immutable, and a read-only mapping over its document.

    Made by `load`, `parse`, `from_dict` (all of which list every fault) or `from_stored`; changed by
    `with_status`, `with_metadata`, `with_spec` and `replace`, each of which returns a new one.

    Example:
        >>> passport = NodePassport.from_dict({
        ...     "apiVersion": "ai-team.dev/v1", "kind": "NodePassport", "metadata": {"name": "writer-001"},
        ...     "spec": {"capabilities": [{"name": "write_article"}]}})
        >>> passport.key, passport.mindbus_queue, passport["metadata"]["name"]
        ('default/writer-001', 'agent.default.writer-001', 'writer-001')

    Source: docs/passport-spec.md.
    """

    __slots__ = ("_capabilities", "_doc", "_warnings", "name", "namespace")

    name: str
    namespace: str
    _capabilities: tuple[Capability, ...] | None
    _doc: dict[str, Any]
    _warnings: tuple[Fault, ...] | None

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        raise TypeError("make a passport with NodePassport.load, .parse, .from_dict or .from_stored")

    @classmethod
    def _make(cls, doc: dict[str, Any], warnings: tuple[Fault, ...] | None = None) -> NodePassport:
        self = object.__new__(cls)
        put = object.__setattr__
        metadata = doc["metadata"]
        put(self, "_doc", doc)
        put(self, "_warnings", warnings)
        put(self, "_capabilities", None)
        put(self, "name", metadata["name"])
        put(self, "namespace", metadata.get("namespace") or fields.DEFAULT_NAMESPACE)
        return self

    # -- reading

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NodePassport:
        """Read a passport from a file of YAML or JSON, of at most 1 MiB.

        Raises:
            DocumentError: the file cannot be read, or is no passport; lists every fault with line and column.
        """
        from roster.passport.files import read_file

        source = os.fspath(path)
        return cls.parse(read_file(FilePath(source)), source=source)

    @classmethod
    def parse(cls, text: str | bytes, *, source: str = "<text>") -> NodePassport:
        """Read a passport from YAML or JSON text of at most 1 MiB.

        Args:
            text: exactly one document.
            source: how errors name it.

        Raises:
            DocumentError: lists every fault with line and column.
        """
        documents = read(text, source=source, limits=FILE)
        if len(documents) != 1:
            found = "no document" if not documents else f"{len(documents)} documents"
            raise DocumentError(source, [Fault("", f"expected one document, found {found}")])
        return cls._from_document(documents[0], source)

    @classmethod
    def _from_document(cls, document: Document, source: str) -> NodePassport:
        report = Report(document.places)
        report.warnings.extend(document.remarks)
        _check(document.value, report)
        if report.faults:
            raise DocumentError(source, report.sorted_faults())
        return cls._make(document.value, tuple(report.sorted_warnings()))

    @classmethod
    def from_dict(cls, obj: Mapping[str, Any], *, source: str = "<dict>") -> NodePassport:
        """Make a passport from plain values, which are copied; tuples are lists, and aware datetimes become
        RFC 3339 text.

        Raises:
            DocumentError: lists every fault.
        """
        report = Report()
        doc = plain(obj, report, FILE)
        if not report.faults:
            _check(doc, report)
        if report.faults:
            raise DocumentError(source, report.sorted_faults())
        return cls._make(doc, tuple(report.sorted_warnings()))

    @classmethod
    def from_stored(cls, raw: bytes) -> NodePassport:
        """Read what is in the store: JSON as Roster writes it, else YAML as founding-style agents do. At most
        256 KiB.

        It refuses only what could not be used: bad names, wrong types where this class promises a type. It
        does not look into the schemas of capabilities, at the form of versions, labels, annotations and
        times, or for unknown fields.

        Raises:
            DocumentError: it cannot be used.
        """
        try:
            text = decode(raw, STORED)
            try:
                value = json_text.load_fast(text, STORED)
            except json_text.NotJsonError:
                documents = read(text, source="<store>", limits=STORED, yaml_1_1=True)
                value = documents[0].value if documents else None
        except ReadError as error:
            raise DocumentError("<store>", [error.fault]) from None
        report = Report(lenient=True)
        fields.PASSPORT.check(value, (), report)
        if report.faults:
            raise DocumentError("<store>", report.faults)
        return cls._make(value)

    # -- what it says

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def uid(self) -> str | None:
        """The registration that it belongs to; None before one."""
        return self._doc["metadata"].get("uid")  # type: ignore[no-any-return]  # checked to be text

    @property
    def generation(self) -> int:
        """How often metadata and spec changed, 0 before registration."""
        return self._doc["metadata"].get("generation") or 0

    @property
    def labels(self) -> Mapping[str, str]:
        """What selectors match."""
        labels = self._doc["metadata"].get("labels")
        return MappingProxyType(labels) if labels else _EMPTY

    @property
    def annotations(self) -> Mapping[str, str]:
        """Notes in any language."""
        annotations = self._doc["metadata"].get("annotations")
        return MappingProxyType(annotations) if annotations else _EMPTY

    @property
    def type(self) -> str:
        """`agent` (the default), `orchestrator`, `component`, `service` or another word."""
        return self._doc["spec"].get("type") or fields.DEFAULT_TYPE

    @property
    def version(self) -> str | None:
        """The node's version, or None."""
        return self._doc["spec"].get("version")  # type: ignore[no-any-return]  # checked to be text

    @property
    def capabilities(self) -> tuple[Capability, ...]:
        """What it can do, in the order of the document."""
        if self._capabilities is not None:
            return self._capabilities
        declared = self._doc["spec"].get("capabilities") or ()
        made = tuple(Capability(each, self.version) for each in declared)
        object.__setattr__(self, "_capabilities", made)
        return made

    @property
    def capabilities_mark(self) -> bytes:
        """16 bytes that are equal for passports whose capabilities are written alike; empty where there are none such."""
        spec = self._doc["spec"]
        return fingerprint((spec.get("capabilities"), spec.get("version")))

    def capability(self, name: str) -> Capability | None:
        """Return the capability of this name, or None."""
        for each in self.capabilities:
            if each.name == name:
                return each
        return None

    @property
    def mindbus_queue(self) -> str:
        """The queue that its commands go to: as declared, else `agent.{namespace}.{name}`."""
        return self._spec("communication").get("mindbus_queue") or f"agent.{self.namespace}.{self.name}"

    @property
    def mindbus_routing_key(self) -> str | None:
        """The binding of that queue on `mindbus.main`, or None."""
        return self._spec("communication").get("mindbus_routing_key")

    @property
    def max_concurrent_tasks(self) -> int:
        """Commands that it runs at once, 1 when not declared."""
        return self._spec("resources").get("max_concurrent_tasks") or 1

    @property
    def llm_model(self) -> str | None:
        """The language model it works with, or None."""
        return self._spec("resources").get("llm_model")

    @property
    def resources(self) -> Mapping[str, Any]:
        """`spec.resources` with all extra keys, read-only."""
        return view(self._spec("resources"))  # type: ignore[no-any-return]  # the view of a dict is a mapping

    @property
    def state(self) -> str:
        """The state that the document declares, `ready` when it does not."""
        return (self._doc.get("status") or {}).get("state") or fields.DEFAULT_STATE

    @property
    def warnings(self) -> tuple[Fault, ...]:
        """What is allowed but probably not meant: unknown fields, with places where there was text."""
        if self._warnings is not None:
            return self._warnings
        report = Report()
        fields.PASSPORT.check(self._doc, (), report)
        made = tuple(report.warnings)
        object.__setattr__(self, "_warnings", made)
        return made

    def _spec(self, section: str) -> dict[str, Any]:
        return self._doc["spec"].get(section) or {}

    # -- the mapping

    def __getitem__(self, key: str) -> Any:
        return view(self._doc[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._doc)

    def __len__(self) -> int:
        return len(self._doc)

    def __contains__(self, key: object) -> bool:
        return key in self._doc

    def __eq__(self, other: object) -> bool:
        if isinstance(other, NodePassport):
            return self._doc == other._doc
        if isinstance(other, Mapping):
            return bool(view(self._doc) == other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by content, as every mapping

    # -- writing

    def to_dict(self) -> dict[str, Any]:
        """Return the document as plain values (a deep copy), with its order and its unknown fields."""
        return copy.deepcopy(self._doc)

    def to_json(self) -> bytes:
        """Return it as one line of JSON in UTF-8, which `yaml.safe_load` reads alike.

        This is what the store keeps.
        """
        return to_json(self._doc)

    def to_yaml(self) -> str:
        """Return it as YAML for people."""
        return to_yaml(self._doc)

    # -- changing

    def with_status(self, **changes: Any) -> NodePassport:
        """Return a passport with these fields of `status` set; None removes one.

        Raises:
            DocumentError: lists every fault of the new status.
        """
        return self._with("status", fields.STATUS, changes)

    def with_metadata(self, **changes: Any) -> NodePassport:
        """Return a passport with these fields of `metadata` set (`labels` and `annotations` as a whole); None
        removes one.

        Raises:
            DocumentError: lists every fault of the new metadata.
        """
        return self._with("metadata", fields.METADATA, changes)

    def with_spec(self, **changes: Any) -> NodePassport:
        """Return a passport with these fields of `spec` set (`capabilities`, `resources` as a whole); None
        removes one.

        Raises:
            DocumentError: lists every fault of the new spec.
        """
        return self._with("spec", fields.SPEC, changes)

    def replace(self, **sections: Any) -> NodePassport:
        """Return a passport with whole sections (`metadata`, `spec`, `status`) in place of its own; None
        removes one.

        Raises:
            DocumentError: lists every fault of the new document.
        """
        doc = {**self._doc, **sections}
        return self.from_dict(
            {key: value for key, value in doc.items() if key not in sections or value is not None}
        )

    def _with(self, section: str, rule: Object, changes: dict[str, Any]) -> NodePassport:
        report = Report()
        changed = {**(self._doc.get(section) or {})}
        for name, value in changes.items():
            if value is None:
                changed.pop(name, None)
            else:
                changed[name] = plain(value, report, FILE, (section, name))
        if not report.faults:
            # Only what changed is judged: a document from the store may be looser elsewhere, and may stay so.
            known = {
                name: rule.fields[name]
                for name in rule.fields
                if name in changes or rule.fields[name].required
            }
            Object(known, extra=True).check(changed, (section,), report)
        if report.faults:
            raise DocumentError(self.key, report.faults)
        # Parts that did not change are shared: nothing ever writes to a document.
        return self._make({**self._doc, section: changed})

    # -- an unchangeable value

    def __setattr__(self, name: str, _value: Any) -> NoReturn:
        raise AttributeError(
            f"a passport cannot be changed ({name}): with_status, with_metadata or replace make a new one"
        )

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a passport cannot be changed ({name})")

    def __copy__(self) -> NodePassport:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> NodePassport:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return NodePassport._make, (self._doc, self._warnings)

    def __repr__(self) -> str:
        offers = ", ".join(each.name for each in self.capabilities[:3])
        return f"<NodePassport {self.key} [{offers}{', …' if len(self.capabilities) > 3 else ''}]>"


PassportLike = NodePassport | Mapping[str, Any] | str | os.PathLike[str]
"""What people have in hand: a passport, its document, or a path to it."""


def passport_of(given: PassportLike) -> NodePassport:
    """Return the passport that somebody means.

    Raises:
        DocumentError: it is wrong, or cannot be read.
    """
    if isinstance(given, NodePassport):
        return given
    if isinstance(given, Mapping):
        return NodePassport.from_dict(dict(given))
    return NodePassport.load(FilePath(given))


def _check(value: Any, report: Report) -> None:
    if not isinstance(value, dict):
        report.fault(
            (), f"expected a passport (a map with apiVersion, kind, metadata, spec), found {describe(value)}"
        )
        return
    fields.PASSPORT.check(value, (), report)
    check_tree(value, report)
