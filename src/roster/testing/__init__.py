"""In-memory teams with faults to switch on, for users' own tests: no servers, no sleeps.

Example:
    >>> from roster.testing import Team
    >>> async def test_another_writer_is_asked_when_the_first_dies():
    ...     async with Team() as team:
    ...         first = await team.add("write_article", write_article)
    ...         second = await team.add("write_article", write_article)
    ...         await first.die()
    ...         await team.call("write_article", {"topic": "bees"})
    ...         assert second.params == [{"topic": "bees"}]
"""

from __future__ import annotations

from roster.testing.ledger import Asked, Ledger
from roster.testing.member import Member
from roster.testing.sync import SyncMember, SyncTeam
from roster.testing.team import Team

__all__ = ["Asked", "Ledger", "Member", "SyncMember", "SyncTeam", "Team"]
