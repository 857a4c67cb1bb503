"""Finds records by capability, labels, namespace and queue without looking at the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from roster.registry.contracts import Contracts
from roster.registry.record import NodeRecord


class _Group:
    """The nodes that have exactly the same labels: a selector is asked once for all of them."""

    __slots__ = ("labels", "members")

    def __init__(self, labels: Mapping[str, str]) -> None:
        self.labels = labels
        self.members: dict[str, NodeRecord] = {}


class Index:
    """Records by each of the things they are asked for by. One record a key; adding it again replaces it."""

    def __init__(self) -> None:
        self.by_key: dict[str, NodeRecord] = {}
        self.contracts = Contracts(lambda capability: self.by_capability(capability).values())
        self._by_capability: dict[str, dict[str, NodeRecord]] = {}
        self._by_namespace: dict[str, dict[str, NodeRecord]] = {}
        self._by_queue: dict[str, tuple[NodeRecord, ...]] = {}
        self._by_labels: dict[frozenset[tuple[str, str]], _Group] = {}
        # Label mappings are shared, so the frozenset of each is made once and found by the mapping's
        # identity.
        self._label_keys: dict[int, tuple[Mapping[str, str], frozenset[tuple[str, str]]]] = {}

    def add(self, record: NodeRecord) -> None:
        """Put a record in, in place of the one with the same key."""
        key = record.key
        old = self.by_key.get(key)
        if old is not None:
            self._forget(old, record)
        self.contracts.replace(old, record)
        self.by_key[key] = record
        for name in record.capabilities:
            found = self._by_capability.get(name)
            if found is None:
                found = self._by_capability[name] = {}
            found[key] = record
        space = self._by_namespace.get(record.namespace)
        if space is None:
            space = self._by_namespace[record.namespace] = {}
        space[key] = record
        if record.mindbus_queue:
            others = tuple(one for one in self._by_queue.get(record.mindbus_queue, ()) if one.key != key)
            self._by_queue[record.mindbus_queue] = (*others, record)
        label_key = self._label_key(record.labels)
        group = self._by_labels.get(label_key)
        if group is None:
            group = self._by_labels[label_key] = _Group(record.labels)
        group.members[key] = record

    def remove(self, record: NodeRecord) -> None:
        """Take the record with this key out."""
        old = self.by_key.pop(record.key, None)
        if old is not None:
            self._forget(record, None)
            self.contracts.replace(old, None)

    def by_capability(self, name: str) -> Mapping[str, NodeRecord]:
        """Return the nodes that offer a capability now, by key. It is the index itself: do not keep it."""
        return self._by_capability.get(name, {})

    def by_namespace(self, namespace: str) -> Mapping[str, NodeRecord]:
        """Return the nodes of a namespace, by key. It is the index itself: do not keep it."""
        return self._by_namespace.get(namespace, {})

    def by_queue(self, queue: str) -> tuple[NodeRecord, ...]:
        """Return the nodes that name this queue; more than one is a mistake of theirs."""
        return self._by_queue.get(queue, ())

    def by_labels(self, matches: Callable[[Mapping[str, str]], bool]) -> Iterator[NodeRecord]:
        """Return the nodes whose labels match; `matches` is called once for each distinct set of labels."""
        for group in list(self._by_labels.values()):
            if matches(group.labels):
                yield from group.members.values()

    @property
    def label_sets(self) -> int:
        """How many distinct sets of labels there are."""
        return len(self._by_labels)

    @property
    def capabilities(self) -> Mapping[str, Mapping[str, NodeRecord]]:
        """Each capability that some node offers now, with its nodes by key."""
        return self._by_capability

    def _forget(self, old: NodeRecord, new: NodeRecord | None) -> None:
        """Take `old` out of every place where `new` will not replace it."""
        key = old.key
        if new is None or new.capabilities is not old.capabilities:
            for name in old.capabilities:
                _drop(self._by_capability, name, key)
        if new is None:
            _drop(self._by_namespace, old.namespace, key)
        if old.mindbus_queue and (new is None or new.mindbus_queue != old.mindbus_queue):
            rest = tuple(one for one in self._by_queue.get(old.mindbus_queue, ()) if one.key != key)
            if rest:
                self._by_queue[old.mindbus_queue] = rest
            else:
                self._by_queue.pop(old.mindbus_queue, None)
        if new is None or new.labels is not old.labels:
            label_key = self._label_key(old.labels)
            group = self._by_labels.get(label_key)
            if group is not None:
                group.members.pop(key, None)
                if not group.members:
                    del self._by_labels[label_key]
                    self._label_keys.pop(id(old.labels), None)

    def _label_key(self, labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
        known = self._label_keys.get(id(labels))
        if known is None or known[0] is not labels:
            known = self._label_keys[id(labels)] = (labels, frozenset(labels.items()))
        return known[1]


def _drop(index: dict[str, dict[str, NodeRecord]], name: str, key: str) -> None:
    found = index.get(name)
    if found is not None:
        found.pop(key, None)
        if not found:
            del index[name]
