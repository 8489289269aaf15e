"""The command line as ``python -m blockfuse``."""

from __future__ import annotations

import sys

from blockfuse.cli import main

if __name__ == "__main__":
    sys.exit(main())
