"""Entry point of `foundryc`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; an interrupt of its imports, which take a while, ends it as any other."""
    try:
        from foundryc import cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)
