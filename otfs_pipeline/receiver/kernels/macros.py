"""The macros that the kernels of a frame are compiled with."""

from __future__ import annotations

import math

from otfs_pipeline.link.frame import solved_periods
from otfs_pipeline.link.overlapped import LEAST_DAMPING
from otfs_pipeline.link.pilot import seen_delays
from otfs_pipeline.link.prefix import least_energy
from otfs_pipeline.link.reference import eigenvalue_bins
from otfs_pipeline.link.slepian import channel_shares, noise_row
from otfs_pipeline.receiver.kernels.geometry import Geometry, ranked


def macros(geometry: Geometry) -> str:
    """The sizes of a link and of how a frame is divided, as #define lines."""
    s = geometry.settings
    kp, lp = s.pilot_bin
    levels = s.modulation.bit_length() // 2
    whole = {
        "M": s.m, "N": s.n, "Q": s.q, "GUARD": s.guard_bins, "FIRST_TAP": s.first_tap,
        "LAST_TAP": s.last_tap, "WINDOW": s.window_delays, "REACH": s.doppler_range,
        "DOPPLERS": 2 * s.doppler_range + 1, "PILOT_DELAY": kp, "PILOT_DOPPLER": lp,
        "CYCLE": solved_periods(s) * s.m,
        "FIRST_PERIOD": -1 if s.waveform == "cp" else 0,
        "RANKED": ranked(s)[0], "MOST": ranked(s)[1],
        "ITERATIONS": geometry.iterations, "AXIS_BITS": levels,
        "EACH": geometry.each, "GROUP": geometry.group, "CLUSTER": geometry.cluster,
        "THREADS": geometry.threads, "NODE_STEP": geometry.node_step, "MAX_DELAYS": geometry.delays,
        "ANTENNAS": s.antennas, "WINDOW_BLOCKS": geometry.window_blocks,
        "WINDOW_ROWS": geometry.window_rows, "EIGENVALUES": eigenvalue_bins(s)[1],
        "RESIDENT": geometry.resident, "SHARED_BYTES": geometry.shared_bytes,
        "MAILBOX_SLOTS": geometry.mailbox_slots, "SPAN": geometry.span, "ORDER": geometry.order,
        "OVERLAP": geometry.overlap,
    }  # fmt: skip
    real = {
        "PILOT_AMPLITUDE": s.pilot_amplitude,
        "TAP_SIGMAS": s.tap_sigmas,
        "LEVEL_SCALE": s.level_scale,
        "LEAST_DAMPING": LEAST_DAMPING,
    }
    if s.pilot == "spread":
        whole |= {"CHIRP": s.chirp_period, "SEEN": int(seen_delays(s)[0])}
        real["STRIP_AMPLITUDE"] = math.sqrt(s.pilot_energy / s.guard_bins)
    if s.waveform == "cp":
        whole |= {"SEQUENCES": channel_shares(s).size, "NOISE_ROW": noise_row(s)}
        real["LEAST_ENERGY"] = least_energy(s)
    values = {k: f"{v}" for k, v in whole.items()} | {k: f"{v:.9e}f" for k, v in real.items()}
    return "".join(f"#define {name} ({value})\n" for name, value in values.items())
