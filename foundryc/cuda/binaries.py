"""Functions, kernel binaries and module variables of a recording, each once."""

from __future__ import annotations

import numpy as np

from foundryc.cuda.build import NotedKernel
from foundryc.cuda.extract import CapturedFunction
from foundryc.cuda.foreign import ForeignMemory
from foundryc.cuda.harvest import Harvest
from foundryc.cuda.prune_check import pruned
from foundryc.cuda.variables import changed, module_variables, pointed_to
from foundryc.template import Spans, relocations
from foundryrt.bundle.schema import Function, Variable
from foundryrt.errors import FoundryError
from foundryrt.printable import quoted


class Binaries:
    """What graphs call, by content, in order of first use.

    `foreign` takes in the memory that module variables point to.
    """

    def __init__(self, harvest: Harvest, foreign: ForeignMemory) -> None:
        self._harvest = harvest
        self._foreign = foreign
        self._values: dict[int, dict[str, bytes]] = {}
        self._places: list[tuple[int, int, str, str]] = []
        """Address and size of module variables, with their names and those of kernels."""
        self._used: dict[bytes, set[str]] = {}
        self._index: dict[Function, int] = {}
        self._variables: dict[tuple[int, str], bytes] = {}

    def index(self, captured: CapturedFunction) -> int:
        """The number of a function; FoundryError where its binary or variables cannot be kept."""
        cubin = self._harvest.binary_of(captured.name, captured.module)
        if captured.module not in self._values:
            own = module_variables(captured.module, cubin)
            self._places += [(v.address, v.size, v.name, captured.name) for v in own]
            self._values[captured.module] = changed(own)
            for name, data in self._values[captured.module].items():
                self._foreign.follow(pointed_to(captured, name, data))
        kernel = self._kernel(cubin, captured.name)
        for name, data in self._values[captured.module].items():
            if self._variables.setdefault((kernel, name), data) != data:
                raise FoundryError(
                    f"two modules of one binary hold different values in their variable {name};"
                    " a bundle loads a binary once"
                )
        function = Function(
            name=captured.name,
            kernel=kernel,
            max_dynamic_shared=captured.max_dynamic_shared,
            shared_carveout=captured.carveout,
            cluster_nonportable=captured.nonportable,
        )
        return self._index.setdefault(function, len(self._index))

    def noted(self, kernel: NotedKernel) -> int:
        """The number of a function of a build, whose binary nothing has loaded."""
        function = Function(
            name=kernel.name,
            kernel=self._kernel(kernel.image, kernel.name),
            max_dynamic_shared=kernel.most_shared,
        )
        return self._index.setdefault(function, len(self._index))

    def _kernel(self, cubin: bytes, name: str) -> int:
        """The number of a binary, of which the kernel `name` is used."""
        self._used.setdefault(cubin, set()).add(name)
        return list(self._used).index(cubin)

    def refuse_addresses(self) -> None:
        """FoundryError where a graph is given the address of a module variable.

        Its module's kernels use the variable itself: a copy elsewhere would not be what they see.
        """
        for address, size, name, kernel in self._places:
            for region in self._foreign.regions:
                if region.base < address + size and address < region.base + region.size:
                    raise FoundryError(
                        f"a graph is given the address of the variable {quoted(name)} of kernel"
                        f" {quoted(kernel)}'s module, which a bundle does not restore; use another"
                        " operator here"
                    )

    @property
    def functions(self) -> tuple[Function, ...]:
        """All functions that were asked for, by number."""
        return tuple(self._index)

    def variables(self, spans: Spans) -> tuple[Variable, ...]:
        """What module variables must hold in another process, with the addresses among it."""
        return tuple(
            Variable(
                kernel=kernel,
                name=name,
                data=data,
                relocations=relocations(np.frombuffer(data, np.uint8), spans),
            )
            for (kernel, name), data in self._variables.items()
        )

    def kernels(self) -> list[bytes]:
        """The binaries with the kernels that were asked for alone, once all are known."""
        kernels: list[bytes] = []
        for binary, names in self._used.items():
            data = pruned(binary, names)
            # Two binaries may be pruned to the same bytes, but each has its own variables.
            kernels.append(binary if data in kernels else data)
        return kernels
