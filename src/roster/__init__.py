"""Roster: service discovery and routing for teams of AI agents."""

from roster._version import __version__

__all__ = ["__version__"]
