"""The launches of the receiver's kernels, on a stand-in for what loads and launches them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from otfs_pipeline.receiver.kernels import program
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.settings import Settings
from otfs_pipeline.signature import received, signature

GEOMETRY = Geometry.of(Settings(grid="1024x32"))


@dataclass(frozen=True)
class Launched:
    """What `Kernel.load` and `Kernel.launch` were given."""

    image: bytes
    name: str
    loaded_for: int
    calls: list[tuple[Any, ...]]

    def launch(self, *arguments: Any) -> None:
        self.calls.append(arguments)


@pytest.fixture
def loaded() -> program.Program:
    def load(image: bytes, name: str, shared: int = 0) -> Launched:
        return Launched(image, name, shared, [])

    return program.Program(GEOMETRY, {name: name.encode() for name in program.KERNELS}, load)


def test_each_kernel_is_loaded_and_launched_with_its_own(loaded: Any) -> None:
    names = ["samples", *program.buffers(GEOMETRY)]
    addresses = {name: 0x1000 * (index + 1) for index, name in enumerate(names)}
    for name, source in program.KERNELS.items():
        loaded.launch(name, addresses, 7)
        kernel, launch = loaded.kernels[name], program.launches(GEOMETRY)[name]
        assert (kernel.image, kernel.name, kernel.loaded_for) == (
            name.encode(), name, launch.shared
        )  # fmt: skip
        assert kernel.calls == [
            (
                (launch.blocks, 1, 1),
                (launch.threads, 1, 1),
                [addresses[parameter] for parameter in source.parameters],
                7,
                launch.shared,
            )
        ]


def test_the_kernels_read_the_inputs_and_write_every_output() -> None:
    inputs = signature(GEOMETRY.settings).inputs
    used = {name for source in program.KERNELS.values() for name in source.parameters}
    assert used == inputs.keys() | program.buffers(GEOMETRY).keys()
    assert received(GEOMETRY.settings).items() <= program.buffers(GEOMETRY).items()
