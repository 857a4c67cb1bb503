"""`python -m roster` is the `roster` command."""

from __future__ import annotations

import sys

from roster.cli import main

if __name__ == "__main__":
    sys.exit(main())
