"""The rules by which verdicts select the prefix of a draft that is kept."""

from __future__ import annotations

from enum import IntEnum

from foundryrt.errors import UsageError


class SelectionRule(IntEnum):
    """A verify pass reads the number: graphs in bundles know it, so it never changes."""

    FIRST_FAILURE = 0
    """The largest cut such that it and every cut before it is accepted."""
    LONGEST_ACCEPTED = 1
    """The largest accepted cut, whatever came before it."""

    @property
    def label(self) -> str:
        """The name in settings: `first-failure`."""
        return self.name.lower().replace("_", "-")

    @staticmethod
    def named(label: str) -> SelectionRule:
        """The rule of a label; UsageError where there is none."""
        found = {rule.label: rule for rule in SelectionRule}
        if label not in found:
            raise UsageError(f"selection {label!r}: one of {', '.join(found)}")
        return found[label]
