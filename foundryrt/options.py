"""Command-line options of a workload, read off the fields of a frozen dataclass."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from foundryrt.errors import UsageError

T = TypeVar("T")
COLUMNS = ("option", "default", "meaning")
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


def option(default: Any, help: str, writes: bool = False, alone: str | None = None) -> Any:
    """A dataclass field whose command-line option has this help; `...` makes it required.

    `writes`: the option names a file that is written. `alone`: its value where none follows.
    """
    metadata = {"help": help, "writes": writes, "alone": alone}
    if default is ...:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def written(options: Any) -> dict[str, str]:
    """The files that options name to be written, by the field of each."""
    found = {
        name: getattr(options, name)
        for name, (field, _) in _fields(type(options)).items()
        if field.metadata.get("writes")
    }
    return {name: path for name, path in found.items() if path}


def parse(options: type[T], arguments: Sequence[str]) -> T:
    """Make `options` from `--name value` and `--name=value`; `--flag` alone sets a bool.

    So does the name of an option that has a value for that (see `option`).

    UsageError for an unknown option, a missing value, a value of another type, or a required
    option that is not given.
    """
    return options(**given(options, arguments))


def given(options: type[Any], arguments: Sequence[str]) -> dict[str, Any]:
    """The values of the fields that `arguments` name; errors are those of `parse`."""
    fields = _fields(options)
    values: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            raise UsageError(f"unexpected argument {argument!r}; options begin with --")
        name, equals, value = argument[2:].partition("=")
        field = _field(argument)
        if field not in fields:
            raise UsageError(f"no option --{name} here; {_like(field, list(fields))}")
        description, kind = fields[field]
        if not equals:
            alone = "true" if kind is bool else description.metadata.get("alone")
            if alone is not None and (not rest or rest[0].startswith("--")):
                value = alone
            elif not rest:
                raise UsageError(f"--{name} needs a value")
            else:
                value = rest.pop(0)
        values[field] = _convert(name, kind, value)
    for field, (description, _) in fields.items():
        required = description.default is dataclasses.MISSING
        if required and description.default_factory is dataclasses.MISSING and field not in values:
            raise UsageError(f"{flag(field)} is required")
    return values


def _like(name: str, known: list[str]) -> str:
    """Of the options that there are, those that may have been meant, else all."""
    import difflib  # takes 10 ms, for an error alone

    near = difflib.get_close_matches(name, known)
    near += [other for other in known if name in other.split("_") and other not in near]
    if near:
        return f"is {' or '.join(map(flag, near))} meant?"
    return f"there are {', '.join(map(flag, known)) or 'none'}"


def split(arguments: Sequence[str], fields: Collection[str]) -> tuple[list[str], list[str]]:
    """`arguments` that are options of these fields, with their values, and the others."""
    theirs: list[str] = []
    others: list[str] = []
    rest = list(arguments)
    while rest:
        words = [rest.pop(0)]
        if words[0].startswith("--") and "=" not in words[0] and rest and rest[0][:2] != "--":
            words.append(rest.pop(0))
        (theirs if named(words) & set(fields) else others).extend(words)
    return theirs, others


def flag(field: str) -> str:
    """The command-line option of a field: `--max-len` of `max_len`."""
    return f"--{field.replace('_', '-')}"


def names(options: type[Any]) -> set[str]:
    """The fields that are options."""
    return set(_fields(options))


def named(arguments: Sequence[str]) -> set[str]:
    """What `--name value` and `--name=value` in `arguments` name, as fields."""
    return {_field(argument) for argument in arguments if argument.startswith("--")}


def describe(
    options: type[Any], captured: Mapping[str, object] | None = None
) -> list[tuple[str, str, str]]:
    """Every option as a row of COLUMNS, in order.

    Where the default is None, it is the value of that name in `captured`, or empty.
    """
    captured = captured or {}
    rows = []
    for name, (field, _) in _fields(options).items():
        required = field.default is dataclasses.MISSING
        value = captured.get(name, "") if field.default is None else field.default
        default = "required" if required else str(value)
        rows.append((flag(name), default, field.metadata.get("help", "")))
    return rows


def _field(argument: str) -> str:
    return argument[2:].partition("=")[0].replace("-", "_")


def _fields(options: type[Any]) -> dict[str, tuple[dataclasses.Field[Any], type]]:
    """The fields with their types; UsageError for a class that cannot be a command's options."""
    if not dataclasses.is_dataclass(options):
        raise UsageError(
            f"{options.__module__}.{options.__qualname__}: is no dataclass, which options are the"
            " fields of"
        )
    hints = typing.get_type_hints(options)
    return {
        field.name: (field, _scalar(hints[field.name]))
        for field in dataclasses.fields(options)
        if field.init
    }


def _scalar(hint: Any) -> type:
    """The type a value converts to: `int` for `int | None`."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    return typing.cast(type, hint)


def _convert(name: str, kind: type, value: str) -> Any:
    if kind is bool:
        if value.lower() not in _TRUE | _FALSE:
            raise UsageError(f"--{name} {value!r}: need true or false")
        return value.lower() in _TRUE
    try:
        return kind(value)
    except ValueError:
        raise UsageError(f"--{name} {value!r}: need a value of type {kind.__name__}") from None
