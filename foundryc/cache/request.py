"""From a command's arguments to the parts of a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foundryc import workload
from foundryc.cache.environment import environment, profile
from foundryc.cache.key import Parts, gather
from foundryc.cache.target import usable_target
from foundryc.script import WORKLOAD as SCRIPT
from foundryc.script import Script
from foundryc.workload import CaptureWorkload, WithFit
from foundryrt import options
from foundryrt.bundle.schema import TARGETS
from foundryrt.errors import UsageError
from foundryrt.workload import is_file, own_file

# An arena spans 1.25 TiB; programs lie below these addresses, libraries above.
BASES = range(0x100000000000, 0x700000000000, 2 << 40)


@dataclass(frozen=True)
class Request:
    """What `foundryc capture` and `foundryc key` are asked for."""

    workload: str
    target: str
    embed_weights: bool
    module: CaptureWorkload
    settings: Any
    compile: bool = False
    base: int | None = None
    relocate: bool = False
    """Whether the bundle may lie anywhere, proved by comparing captures (cuda)."""
    command: tuple[str, ...] = ()
    """What `foundryc capture` takes to ask for the same, but for the output."""
    architectures: tuple[str, ...] = ()
    """Of GPUs that the bundle is for, beside the one that captures it (cuda)."""
    why: str = ""
    """Why this target, where nobody asked for one."""

    @classmethod
    def read(
        cls,
        name: str | None,
        target: str | None,
        embed_weights: bool,
        arguments: Sequence[str],
        compile: bool = False,
        base: str | None = None,
        relocate: bool | None = None,
        fit: bool = False,
        arch: str | None = None,
    ) -> Request:
        """A workload that is not named is the one whose options `arguments` are; a target that is
        not named is the one that this machine can capture for. With `fit` the workload chooses the
        settings that are not given. Where `arguments` begin with no option, they are a script and
        its own arguments.

        UsageError for an unknown target, workload or option of it, or a base that cannot be.
        """
        if target is not None and target not in TARGETS:
            raise UsageError(f"--target {target!r}: use one of {', '.join(TARGETS)}")
        module: CaptureWorkload
        given: dict[str, Any]
        if (script := Script.named_by(arguments)) is not None:
            asked, module, given = SCRIPT, script, asdict(script.settings)
            if name or compile or fit:
                other = "--workload" if name else "--compile" if compile else "--fit"
                raise UsageError(f"{arguments[0]}: a script is captured without {other}")
        else:
            asked = name or workload.chosen_by(arguments)
            module = workload.find(asked)
            given = options.given(module.Settings, arguments)
        chosen, why = (target, "") if target else usable_target()
        architectures = () if arch is None else _architectures(arch, chosen, asked, module)
        if fit:
            if not isinstance(module, WithFit):
                raise UsageError(f"--fit: workload {asked!r} cannot choose its sizes")
            given = {**module.fitted(given, chosen), **given}
        settings = module.Settings(**given)
        _check_text(settings)
        if getattr(settings, "tp", 1) > 1 and (compile or embed_weights):
            raise UsageError(
                "--compile: with --tp, layers are recorded as they are"
                if compile
                else "--embed-weights: with --tp, ranks have weights of their own, which stay in "
                "their files"
            )
        address = None if base is None else _address(base, chosen)
        # A folder of this machine is no name to find a workload by.
        known = Path(asked).stem if is_file(asked) else asked
        if relocate is not None and chosen != "cuda":
            raise UsageError(
                "--relocate, --no-relocate: only for --target cuda; host has no places"
            )
        command = ["--target", chosen] + ["--embed-weights"] * embed_weights
        command += ["--compile"] * compile + ([] if base is None else ["--base", base])
        command += [] if arch is None else ["--arch", ",".join(architectures)]
        if script is not None:
            command += ["--", *arguments]
        else:
            command += ["--workload", asked, *_flags(given)]
        return cls(
            known,
            chosen,
            embed_weights,
            module,
            settings,
            compile,
            address,
            chosen == "cuda" if relocate is None else relocate,
            tuple(command),
            architectures,
            why,
        )

    def inputs(self) -> list[Path]:
        """The workload's or script's file, and those that the settings name.

        UsageError where one of these is missing.
        """
        found = own_file(self.module)
        if isinstance(self.module, workload.WithInputs):
            found += [p for paths in self.module.inputs(self.settings).values() for p in paths]
        return found

    def parts(self, device_profile: str | None = None, given: Sequence[str] = ()) -> Parts:
        """The parts of its key, on this machine or the named device; `given` are NAME=VALUE."""
        device = profile(device_profile) if device_profile else None
        parts = gather(
            self.workload, self.module, self.settings, environment(self.target, device),
            target=self.target, embed_weights=self.embed_weights,
        )  # fmt: skip
        if self.compile:
            parts["compile"] = "true"
        if self.relocate:
            parts["relocate"] = "true"
        if self.architectures:
            parts["architectures"] = ",".join(self.architectures)
        if self.base is not None:
            parts["base"] = hex(self.base)
        for text in given:
            name, equals, value = text.partition("=")
            if not equals or name not in parts:
                raise UsageError(f"--part {text!r}: NAME=VALUE of one of {', '.join(parts)}")
            parts[name] = value
        return parts


def _flags(values: Mapping[str, Any]) -> list[str]:
    return [
        f"{options.flag(field)}={value}" for field, value in values.items() if value is not None
    ]


def _architectures(
    text: str, target: str, workload: str, module: CaptureWorkload
) -> tuple[str, ...]:
    """The names in a list with commas, each once, in the order in which the workload has them."""
    there = tuple(getattr(module, "ARCHITECTURES", ()))
    names = {name.strip() for name in text.split(",")}
    if target != "cuda" or not names <= set(there):
        raise UsageError(
            f"--arch {text}: only --target cuda takes GPU architectures, and workload {workload!r}"
            f" has kernels for {', '.join(there) or 'none but the GPU that captures it'}"
        )
    return tuple(name for name in there if name in names)


def _address(text: str, target: str) -> int:
    try:
        base = int(text, 0)
    except ValueError:
        base = -1
    if target != "cuda" or base not in BASES:
        raise UsageError(
            f"--base {text}: only --target cuda takes one, a multiple of {BASES.step:#x} (2 TiB)"
            f" from {BASES.start:#x} to {BASES[-1]:#x}"
        )
    return base


def _check_text(settings: Any) -> None:
    """UsageError for a setting that the bundle cannot hold: all its text is UTF-8."""
    for name, value in asdict(settings).items():
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{options.flag(name)} {value!r}: is not UTF-8: rename the file or folder"
            ) from None
