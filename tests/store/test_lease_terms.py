"""How leases stand, whoever holds them, where an engine can say so."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engines import shared_url, store_params

from roster.store import LeaseTerms, open_store
from roster.store.rooted import at_prefix


@pytest.mark.parametrize("prefix", ["/ai-team", "/team-b"])
@pytest.mark.parametrize("engine", store_params("sqlite", "etcd"))
async def test_somebody_elses_lease_is_seen_until_it_ends(engine: str, prefix: str, tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/registry.db" if engine == "sqlite" else shared_url(engine)
    async with at_prefix(open_store(url), prefix) as holder, at_prefix(open_store(url), prefix) as other:
        assert isinstance(other, LeaseTerms)
        lease, short = await holder.grant(30), await holder.grant(20)
        await short.revoke()
        terms = await other.lease_terms([lease.id, short.id])
        assert terms.keys() == {lease.id}
        term = terms[lease.id]
        assert term.ttl == 30
        assert 0 <= term.renewed < 10
        assert term.renewed + term.left == pytest.approx(30)
        await lease.revoke()
