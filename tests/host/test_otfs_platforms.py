"""The receiver's kernels for every GPU that they are made for: compiled, and within its limits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from foundryc.cuda.kernels import compile_source
from foundryrt.errors import UsageError
from otfs_pipeline.coding.transport import TransportBlock
from otfs_pipeline.receiver.kernels import decoder, front, program, quality
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.receiver.kernels.macros import macros
from otfs_pipeline.receiver.kernels.platforms import (
    HOPPER,
    MOST_REGISTERS,
    PLATFORMS,
    Platform,
    platform,
)
from otfs_pipeline.settings import Settings
from tests.host.cubin_resources import Resources, resources

ALL = list(PLATFORMS.values())
# What the driver keeps of a block's shared memory is in a binary's own count, from sm_90 on.
KEPT = 1024
SPILLED = 80
"""Bytes of a thread's registers that may have no place, at most.

x of an equalizer has 72, which are read and written once an iteration."""


LARGEST = "16384x32"
GRIDS = (
    *((grid, {}) for grid in ("64x32", "1024x32", LARGEST)),
    *((grid, {"pilot": "spread"}) for grid in ("1024x32", LARGEST)),
    ("1024x128", {"pilot": "spread", "doppler_reach": 56}),
    *((grid, {"waveform": "cp"}) for grid in ("1024x32", LARGEST, "1024x128")),
)
KIN = {"sm_87": "sm_80", "sm_89": "sm_86", "sm_100": "sm_90"}
"""Of an architecture: the one whose source it shares for all but the largest grid."""


def cases() -> Iterator[Any]:
    """Every grid on every GPU; those that only kin set apart are for an exhaustive run."""
    for grid, kind in GRIDS:
        for target in ALL:
            shared = target.architecture in KIN and grid != LARGEST
            marks = pytest.mark.exhaustive if shared else ()
            name = f"{grid}-{kind}-{target.architecture}"
            yield pytest.param(grid, kind, target, marks=marks, id=name)


@pytest.mark.parametrize("name", KIN)
def test_kin_share_the_source_of_smaller_grids(name: str) -> None:
    for grid, kind in GRIDS:
        if grid != LARGEST:
            link = Settings(grid=grid, **kind)
            one, other = (Geometry.of(link, PLATFORMS[each]) for each in (name, KIN[name]))
            assert macros(one) == macros(other)


@pytest.mark.parametrize(("grid", "kind", "target"), list(cases()))
def test_the_kernels_are_within_the_limits(
    grid: str, kind: dict[str, Any], target: Platform
) -> None:
    geometry = Geometry.of(Settings(grid=grid, **kind), target)
    launches = program.launches(geometry)
    for name, image in program.images(geometry, target.architecture).items():
        launch, needs = launches[name], resources(image, name)
        blocks = geometry.resident if name == "equalize" else 1
        _check(needs, launch, target, blocks)
        assert needs.frame <= SPILLED
    # Without distributed shared memory there is no cluster to be launched as.
    source = macros(geometry) + "".join(map(program.text, program.files(geometry, "equalize")))
    assert bool(re.search(r"__cluster_dims__|mapa|st\.async", source)) == target.clusters


def _check(needs: Resources, launch: program.Launch, target: Platform, blocks: int) -> None:
    granules = -(-needs.registers // 8) * 8
    assert blocks * granules * launch.threads <= MOST_REGISTERS
    assert needs.shared + launch.shared <= target.resident_shared(blocks) + KEPT
    # 48 KiB without being asked for.
    assert needs.shared <= 48 * 1024


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.architecture)
@pytest.mark.parametrize(
    "kind", [{}, {"pilot": "spread", "antennas": 4}, {"waveform": "cp"}], ids=str
)
def test_front_end_decoder_and_numbers_of_a_frame_are_within_the_limits(
    kind: dict[str, Any], target: Platform
) -> None:
    link = Settings(grid="1024x32", code_rate=0.5, **kind)
    block = link.transport_block
    assert isinstance(block, TransportBlock)
    own = decoder.Program(block, link.decoder_iterations)
    parts = [
        (program.text("dynamic.cuh") + own.source(), own.launches),
        (quality.source(link), quality.launches(link)),
        *((front.source(link, file), _part(file, link)) for file in front.files(link)),
    ]
    for source, launches in parts:
        image = compile_source(source, "other.cu", target.architecture)
        for name, launch in launches.items():
            _check(resources(image, name), launch, target, 1)


def _part(file: str, link: Settings) -> dict[str, program.Launch]:
    return {name: front.launches(link)[name] for name in front.FILES[file]}


def test_a_decoder_that_does_not_fit_is_refused() -> None:
    # All columns of the larger base graph, at its largest lifting size.
    large = decoder.Program(TransportBlock.of(1_944_000, 4, 0.3), 4)
    assert large.launches["decode"].shared > PLATFORMS["sm_89"].block_shared
    with pytest.raises(UsageError, match="sm_89 has 101376; use a higher --code-rate"):
        decoder.KernelDecoder(large, {}, PLATFORMS["sm_89"])


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.architecture)
@pytest.mark.parametrize("delays", [31, 128, 2048, 8192])
def test_every_grid_fits(delays: int, target: Platform) -> None:
    geometry = Geometry.of(Settings(grid=f"{delays}x32"), target)
    assert geometry.fits
    assert geometry.span * geometry.cluster >= geometry.length
    assert geometry.cluster <= 8
    assert bool(geometry.mailbox_slots) == (not target.clusters and geometry.cluster > 1)


def test_less_memory_takes_more_blocks_or_fewer_nodes() -> None:
    large, small = (
        Geometry.of(Settings(grid="16384x32"), PLATFORMS[name]) for name in ("sm_80", "sm_86")
    )
    assert small.cluster > large.cluster
    assert replace(large, stretch=1).shared_bytes > large.platform.block_shared


def test_a_gpu_that_is_not_listed_is_taken_for_the_least_of_its_kind() -> None:
    assert platform("sm_90") == HOPPER
    assert platform("sm_121") == replace(PLATFORMS["sm_120"], architecture="sm_121")
    assert platform("sm_88").shared == 100
    with pytest.raises(UsageError, match="sm_75: the CUDA receiver is made for sm_80, sm_86"):
        platform("sm_75")
    with pytest.raises(UsageError, match="shared memory of sm_86"):
        Geometry.of(Settings(grid="65536x32"), PLATFORMS["sm_86"])
