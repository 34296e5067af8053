"""PARSE: draft a whole answer, judge its prefixes in one masked pass, resume (docs/parse.md)."""

from foundryrt import __version__

__all__ = ["__version__"]
