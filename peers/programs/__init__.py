"""The same small work, by each library: `python -m peers.programs.with_LIBRARY`; see `common` for the arguments."""
