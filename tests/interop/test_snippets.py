"""What runs here is what the founding document prints: only where a server is and how long things take was changed."""

from __future__ import annotations

import re

import pytest
from tests.docs.founding_snippets import changes
from tests.interop import snippets

# Besides connections, durations and the refresh that the document forgot, only what lets a test talk to the program.
_CHANGED = re.compile(
    r"(from|import) |\w+ = .*(client|Consul|lease)\(|time\.sleep\(|lease\.refresh\(\)$|threading\.Thread\("
    r"|for line in sys\.stdin:$|writers = |print\("
)
# Consul is a sentence and two lines in the document; the rest of its programs is put in place of etcd's.
_CHANGED_FOR_CONSUL = re.compile(
    r'key = f"/?ai-team|# Обновляем в etcd|etcd\.put\(|c\.kv\.put\(|for \w+(, \w+)? in |passport = yaml\.safe_load\('
)


@pytest.mark.parametrize(
    "name", [name for name in vars(snippets) if re.match(r"(AGENT|ORCHESTRATOR|CONSUL_)", name)]
)
def test_only_where_and_how_long_was_changed(name: str) -> None:
    for line in changes(getattr(snippets, name)):
        assert _CHANGED.match(line.strip()) or (
            name.startswith("CONSUL_") and _CHANGED_FOR_CONSUL.match(line.strip())
        ), line


def test_the_variants_differ_from_what_is_printed() -> None:
    assert snippets.HEARTBEAT_WITH_REFRESH != snippets.HEARTBEAT
    assert snippets.CONSUL_FIND != snippets.FIND
