"""Constants of the torch receiver, computed once in float64."""

from __future__ import annotations

import numpy as np

from otfs_pipeline.link import frame, qam
from otfs_pipeline.receiver.pilot import tables as pilot_tables
from otfs_pipeline.settings import Settings


def tables(settings: Settings) -> dict[str, np.ndarray]:
    """By name; l = Doppler 0..N-1, k = delay 0..M-1, u = 0..M-1, a = delay taps of the window.

    twiddle [N, M]   e^{-j2πkl/Q}: rows of a Zak grid to vectors whose M-point DFT is the spectrum
    delay [N, a]     e^{-j2πal/Q}
    ramp [M]         e^{-j2πa₀u/M}, a₀ the window's first tap
    pilot [N, M]     the pilot's spectrum S[l + Nu]
    mask [M]         1 on delays that carry data, else 0; float32
    levels [√points] amplitudes of a QAM axis; float32
    The others are complex64, those of `pilot.tables` among them.
    """
    m, n, q = settings.m, settings.n, settings.q
    k, row = np.arange(m), np.arange(n)[:, None]
    a = settings.first_tap + np.arange(settings.window_delays)
    twiddle = np.exp(-2j * np.pi * row * k / q)
    pilot = np.fft.fft(frame.pilot_grid(settings).T * twiddle, axis=1, norm="ortho")
    exact = {
        "twiddle": twiddle,
        "delay": np.exp(-2j * np.pi * row * a / q),
        "ramp": np.exp(-2j * np.pi * settings.first_tap * k / m),
        "pilot": pilot,
        "mask": frame.data_mask(settings)[:, 0].astype(np.float64),
        "levels": qam.amplitudes(settings.modulation),
    }
    return pilot_tables(settings) | {
        name: value.astype(np.complex64 if np.iscomplexobj(value) else np.float32)
        for name, value in exact.items()
    }
