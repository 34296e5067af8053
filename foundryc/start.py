"""Entry point of `foundryc`."""

from __future__ import annotations

import sys

from foundryrt.streams import open_streams


def main() -> None:
    """Run the command; an interrupt of its imports, which take a while, ends it as any other."""
    try:
        open_streams()
        from foundryc import cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)
