"""Errors that a user meets; the commands turn them into one line and an exit code."""

from __future__ import annotations

from foundryrt.printable import harmless

DISTRIBUTION = "foundry-graphs"
"""The name on the package index; `foundry` there is another project."""


def install(extra: str) -> str:
    """The command that installs what `extra` of pyproject.toml needs."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


class FoundryError(Exception):
    """Something failed: what, where, and what to do about it. Exit code 1."""

    exit_code = 1
    _located = False

    def at(self, place: object) -> FoundryError:
        """This error, whose message begins with where it is; the first place that is told stays."""
        if not self._located:
            self.args, self._located = (f"{place}: {self}",), True
        return self

    def __str__(self) -> str:
        """The message; what a name in it holds cannot steer the terminal of a traceback."""
        return harmless(super().__str__())


class UsageError(FoundryError):
    """A command or call was given something that it cannot work with. Exit code 2."""

    exit_code = 2


def closed(what: str = "the session") -> UsageError:
    """What a call says of something that is closed."""
    return UsageError(f"{what} is closed; open the bundle again")


class Unreadable(FoundryError):
    """A file is there, but its permissions or the disk do not let it be read."""


class Unreachable(FoundryError):
    """A server or store does not answer as it should, after all attempts."""


class Denied(Unreachable):
    """A server refuses access with these credentials, or without any."""


class RankLost(FoundryError):
    """Another rank of the session has failed, ended or not answered: nothing can be launched."""
