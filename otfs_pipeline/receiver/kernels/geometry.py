"""How the kernels divide a frame among blocks and threads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from foundryrt.errors import UsageError
from otfs_pipeline.link.overlapped import Blocks
from otfs_pipeline.link.prefix import most_delays
from otfs_pipeline.receiver.kernels.platforms import HOPPER, MOST_REGISTERS, Platform
from otfs_pipeline.settings import Settings

# Doppler bins whose tile of 32 delays fits into static shared memory.
MOST_DOPPLERS = 128
# Bytes of static shared memory.
STATIC_SHARED = 48 << 10
# Samples a thread computes with one coefficient. Odd: a warp's stride then has no bank conflict.
EACH_CHOICES = (3, 5, 9, 11)
# Threads a block of a cluster of seven at most: with more, an H100 holds 32 such clusters or fewer
# at once, and periods wait for a whole round.
MOST_OF_SEVEN = 192
# Neighbouring delays that share loads, at most.
GROUP = 4
LIKE_HOPPER = ("sm_90", "sm_100")
# Of the preconditioner's DFT: what a warp takes together, and what fourier.cuh can.
LEAST_ORDER, MOST_ORDER = 512, 8192
# Blocks of a period at most: a cluster can have eight on every GPU that has clusters.
MOST_BLOCKS = 8
STRETCHES = (1, 2, 4)
# Of Vehicular-A at 16384 delays, above the noise at 20 dB.
TYPICAL_DELAYS = 24
# Instructions for each multiply-add, and more of them where a thread has few samples.
ISSUED, LOADS = 1.6, 4.0
# Warps that keep a multiprocessor busy.
BUSY_WARPS = 8
# Of a half of a step: the block's barrier, and what an exchange adds. The last is assumed.
BARRIER_US, CLUSTER_US, MAILBOX_US = 0.2, 0.4, 1.2
# Radians that the channel at nu_max may turn within half of them.
HELD_TURN = 1e-3
# Relative error of linear interpolation between two nodes of a coefficient, at nu_max. In Hᴴ a
# group's later delays lie up to GROUP - 2 samples beyond the next node: at short steps theirs is
# several times this.
NODE_ERROR = 4e-6


def held_samples(settings: Settings) -> int:
    """Samples that one coefficient may serve."""
    turn = 2 * math.pi * settings.nu_max * settings.frame_seconds / settings.q
    # One sample is no interval: its coefficient is exact.
    return max(1, int(2 * HELD_TURN / turn)) if turn else settings.m


@dataclass(frozen=True)
class Geometry:
    """Sizes for `settings`; UsageError where a grid is beyond the kernels.

    `each`: samples a thread; `group`: neighbouring delays that share loads at most; `cluster`:
    blocks a Doppler period, a cluster where `platform` has them; `stretch`: a power of two, by
    which nodes of a coefficient lie further apart than they need to, to save memory;
    `preconditioned`: whether iterations are few, with a preconditioner (precondition.cuh).
    """

    settings: Settings
    each: int
    group: int
    cluster: int
    platform: Platform = HOPPER
    stretch: int = 1
    preconditioned: bool = False

    @classmethod
    def of(
        cls, settings: Settings, platform: Platform = HOPPER, preconditioned: bool = True
    ) -> Geometry:
        """The choice for a grid: on Hopper, and what is like it, by what was measured
        (otfs_equalizer.json, otfs_sweep.json), else by counts (`iteration_us`).

        It has no preconditioner if `preconditioned` is False, or where none fits.
        """
        _check(settings)
        held = held_samples(settings)
        choices = [each for each in EACH_CHOICES if each <= held] or [1]
        if platform.architecture in LIKE_HOPPER and platform.clusters:
            measured = _measured(settings, choices, platform)
            if preconditioned:
                measured = itertools.chain(_overlapping(settings, choices, platform), measured)
            found = next(measured, None)
        else:
            found = min(_divisions(settings, choices, platform), key=iteration_us, default=None)
        if found is None:
            raise UsageError(
                f"grid {settings.grid} with {settings.window_delays} delay taps does not fit into"
                f" the shared memory of {platform.architecture}; use fewer delay bins, max-taps or"
                " antennas, or a smaller guard"
            )
        return found

    @property
    def fits(self) -> bool:
        """Whether a block has room, and its neighbours hold all that its taps reach."""
        reached = 2 * self.overlap if self.preconditioned else self.halo
        ordered = not self.preconditioned or self.order <= MOST_ORDER
        room = self.shared_bytes <= self.platform.block_shared and self.threads <= 1024
        return room and ordered and (self.cluster == 1 or self.span >= reached)

    @property
    def length(self) -> int:
        """Samples of a Doppler period that data reaches."""
        s = self.settings
        return s.m - s.guard_bins + s.window_delays - 1

    @property
    def threads(self) -> int:
        """Threads a block."""
        owners = self.span // self.each
        return max(owners, self.order // 16) if self.preconditioned else owners

    @property
    def span(self) -> int:
        """Samples a block."""
        return self.each * 32 * -(-self.length // (self.cluster * self.each * 32))

    @property
    def iterations(self) -> int:
        """Iterations of the equalizer."""
        s = self.settings
        return s.overlapped_iterations if self.preconditioned else s.cg_iterations

    @property
    def overlap(self) -> int:
        """Samples beyond a block, on each side, that the preconditioner reads and changes."""
        return max(self.settings.last_tap, -self.settings.first_tap)

    @property
    def order(self) -> int:
        """Of the preconditioner's DFT, a power of two."""
        return max(LEAST_ORDER, 1 << (self.span + 2 * self.overlap - 1).bit_length())

    @property
    def halo(self) -> int:
        """Samples beyond a block that its taps reach, on both sides together."""
        return self.settings.window_delays - 1

    @property
    def delays(self) -> int:
        """Delays with a tap at any antenna at most, and groups of them."""
        s = self.settings
        return min(s.antennas * ranked(s)[1], s.window_delays)

    @property
    def node_step(self) -> int:
        """Samples between two nodes of a coefficient, a power of two."""
        s = self.settings
        turn = 2 * math.pi * max(s.nu_max * s.frame_seconds, 1.0) / s.q
        step = 1 << max(0, int(math.log2(max(1.0, math.sqrt(8 * NODE_ERROR) / turn))))
        return self.stretch * step

    @property
    def blocks(self) -> Blocks | None:
        """How the preconditioner divides a period, where there is one."""
        first = self.settings.guard_bins // 2 + 1 + self.settings.first_tap
        given = Blocks(self.cluster, self.span, self.overlap, self.order, first)
        return given if self.preconditioned else None

    @property
    def shared_bytes(self) -> int:
        """Of `struct Shared` in shared.cuh or shared_preconditioned.cuh."""
        delays, reached, antennas = self.delays, self.span + self.halo, self.settings.antennas
        nodes = antennas * (reached // self.node_step + 2) * (delays | 1)
        vectors = (1 + antennas) * reached + antennas * delays
        sums = self.cluster * self.threads // 32 + self.iterations
        if self.preconditioned:
            # Sixteen samples share a root and sixteen halves of a float; few more roots are needed.
            vectors += self.order - reached + 4 * self.overlap + 5 * self.order // 16
            vectors += self.order // 256
        return -(-(16 * nodes + 8 * vectors + 12 * delays + 48 + 8 * sums) // 16) * 16

    @property
    def resident(self) -> int:
        """Blocks that a multiprocessor holds at once: two where their registers and memory fit."""
        room = self.shared_bytes <= self.platform.resident_shared(2)
        return 2 if self.threads <= 256 and room else 1

    @property
    def mailbox_slots(self) -> int:
        """Slots of 16 bytes by which a frame's blocks reach one another without clusters."""
        if self.platform.clusters or self.cluster == 1:
            return 0
        a_block = (1 + self.settings.antennas) * self.halo + self.threads // 32
        return 1 + self.settings.n * self.cluster * a_block

    @property
    def window_blocks(self) -> int:
        """Blocks of `read_window` for an antenna."""
        s = self.settings
        if s.pilot == "spread":
            return s.n * -(-s.window_delays // 256)
        return -(-s.window_delays // 32)

    @property
    def data_blocks(self) -> int:
        """Blocks of `demap`."""
        return -(-(self.settings.m - self.settings.guard_bins) // 32)

    @property
    def window_rows(self) -> int:
        """Warps of a block of `read_window`."""
        return 8 if self.settings.pilot == "spread" else min(self.settings.n, 32)


def ranked(settings: Settings) -> tuple[int, int]:
    """How many energies of an antenna are compared with the noise, and how many may be kept.

    They are those of taps; of frames with a prefix those of delays.
    """
    if settings.waveform == "cp":
        return settings.window_delays, most_delays(settings)
    return settings.window_delays * (2 * settings.doppler_range + 1), settings.max_taps


def _check(settings: Settings) -> None:
    if settings.n > MOST_DOPPLERS:
        raise UsageError(
            f"grid {settings.grid}: the CUDA receiver takes {MOST_DOPPLERS} Doppler bins at "
            "most; use a smaller grid or --target host"
        )
    # What exchange.cu holds: 32 delays of each Doppler tap, N roots, and the strip.
    longest = STATIC_SHARED // 8 - 32 * (2 * settings.doppler_range + 1) - settings.n
    if settings.pilot == "spread" and settings.guard_bins > longest:
        raise UsageError(
            f"a spread pilot of {settings.guard_bins} delay bins: the CUDA receiver takes {longest}"
            " at most; use a smaller guard, fewer delay bins or --pilot point"
        )


def _overlapping(
    settings: Settings, choices: Sequence[int], platform: Platform
) -> Iterator[Geometry]:
    """Those with a preconditioner that fit on Hopper, the fastest first."""
    # Two blocks of seven to a multiprocessor, with many threads; of fewer, one.
    divisions = [(each, 7) for each in choices] + [(choices[-1], few) for few in (3, 2, 1)]
    if settings.antennas > 1:
        divisions.append((choices[-1], 8))
    for (each, cluster), stretch in itertools.product(divisions, STRETCHES):
        geometry = Geometry(settings, each, GROUP, cluster, platform, stretch, True)
        if geometry.fits and (cluster != 7 or geometry.resident > 1):
            yield geometry


def _measured(settings: Settings, choices: Sequence[int], platform: Platform) -> Iterator[Geometry]:
    """Those that fit on Hopper, the fastest first."""
    # Of seven blocks, as many warps as fit; of fewer, as few coefficients as can be.
    divisions = [(each, 7) for each in choices] + [(choices[-1], few) for few in (3, 2, 1)]
    if settings.antennas > 1:
        # Their vectors and coefficients may need the memory of more blocks.
        divisions.append((choices[-1], 8))
    for each, cluster in divisions:
        geometry = Geometry(settings, each, GROUP, cluster, platform)
        if cluster == 7 and (geometry.threads > MOST_OF_SEVEN or geometry.resident < 2):
            continue
        if geometry.fits:
            yield geometry


def _divisions(
    settings: Settings, choices: Sequence[int], platform: Platform
) -> Iterator[Geometry]:
    """All that fit, with nodes as close as they can be."""
    for each in choices:
        for cluster in range(1, MOST_BLOCKS + 1):
            stretched = (Geometry(settings, each, GROUP, cluster, platform, s) for s in STRETCHES)
            found = next((geometry for geometry in stretched if geometry.fits), None)
            # x, p and a sum in registers, and what else a thread needs.
            if found and found.threads * (6 * each + 56) <= MOST_REGISTERS:
                yield found


def iteration_us(geometry: Geometry) -> float:
    """Microseconds of one of the equalizer's iterations, as counts predict it.

    Multiprocessors multiply for all blocks that they hold at once, then for the next; they wait
    for two exchanges. Within a third of what an H100 was measured to take (otfs_sweep.json).
    """
    s, platform = geometry.settings, geometry.platform
    blocks, held = s.n * geometry.cluster, platform.multiprocessors * geometry.resident
    if platform.clusters:
        # A cluster's blocks are neighbours: of each sixteen multiprocessors some may stay empty.
        held = platform.multiprocessors // 16 * (16 * geometry.resident // geometry.cluster)
        held *= geometry.cluster
    rounds = -(-blocks // held)
    together = min(geometry.resident, -(-blocks // platform.multiprocessors))
    busy = min(1.0, together * geometry.threads / 32 / BUSY_WARPS)
    products = 8 * min(TYPICAL_DELAYS, geometry.delays) * together * geometry.span
    issued = products * ISSUED * (1 + LOADS / geometry.each)
    rate = platform.tflops / 2 * 1e6 / platform.multiprocessors
    exchange = 0.0 if geometry.cluster == 1 else CLUSTER_US if platform.clusters else MAILBOX_US
    return rounds * (issued / rate / busy + 2 * (BARRIER_US + exchange))
