"""The fixtures of `roster.testing`; a project of its own names the plugin instead, in its top conftest.py."""

from __future__ import annotations

from roster.testing.pytest_plugin import sync_team, team

__all__ = ["sync_team", "team"]
