"""Agents that do real work on real files, and the process cards that put them to work: see README.md."""
