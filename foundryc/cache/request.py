"""From a command's arguments to the parts of a key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from foundryc.cache.environment import environment, profile
from foundryc.cache.key import Parts, gather
from foundryrt import options, workload
from foundryrt.bundle.schema import TARGETS
from foundryrt.errors import UsageError


@dataclass(frozen=True)
class Request:
    """What `foundryc capture` and `foundryc key` are asked for."""

    workload: str
    target: str
    embed_weights: bool
    module: ModuleType
    settings: Any
    compile: bool = False

    @classmethod
    def read(
        cls,
        name: str,
        target: str,
        embed_weights: bool,
        arguments: Sequence[str],
        compile: bool = False,
    ) -> Request:
        """UsageError for an unknown target, workload or option of it."""
        if target not in TARGETS:
            raise UsageError(f"--target {target!r}: use one of {', '.join(TARGETS)}")
        module = workload.find("foundryc.workloads", name)
        settings = options.parse(module.Settings, arguments)
        return cls(name, target, embed_weights, module, settings, compile)

    def parts(self, device_profile: str | None = None, given: Sequence[str] = ()) -> Parts:
        """The parts of its key, on this machine or the named device; `given` are NAME=VALUE."""
        device = profile(device_profile) if device_profile else None
        parts = gather(
            self.workload, self.module, self.settings, environment(self.target, device),
            target=self.target, embed_weights=self.embed_weights,
        )  # fmt: skip
        if self.compile:
            parts["compile"] = "true"
        for text in given:
            name, equals, value = text.partition("=")
            if not equals or name not in parts:
                raise UsageError(f"--part {text!r}: NAME=VALUE of one of {', '.join(parts)}")
            parts[name] = value
        return parts
