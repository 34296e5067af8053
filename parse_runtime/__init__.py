"""PARSE: draft a whole answer, judge its prefixes in one masked pass, resume (docs/parse.md)."""
