"""The unit of a study's work: one simulated frame through all receivers of a link."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

import numpy as np

import foundryrt
from otfs_pipeline.link.profile import Profile
from otfs_pipeline.settings import Settings
from otfs_pipeline.study import linklevel
from otfs_pipeline.study.coded import decoding
from otfs_pipeline.study.peaks import peaks

KINDS = ("equalizers", "estimation", "decoding", "peaks")
"""Equalizers with the channel known; the pilot's estimate beside it; the LDPC decoder; the PAPR."""


@dataclass(frozen=True)
class Point:
    """Frame `index` of a link; `iterations` and `fractions` are those of `linklevel.equalizers`,
    `clip_db` that of `linklevel.estimation`.
    """

    kind: str
    link: Settings
    profile: Profile = field(compare=False)
    snrs: tuple[float, ...]
    seed: int
    index: int
    iterations: tuple[int, ...] = ()
    fractions: tuple[float, ...] = ()
    clip_db: float = 0.0

    @property
    def key(self) -> str:
        """A digest of all that the result depends on, this package's version included."""
        paths = [[None if np.isnan(x) else float(x) for x in values] for values in
                 (self.profile.delay, self.profile.power, self.profile.doppler)]  # fmt: skip
        about = {name: value for name, value in vars(self).items() if name != "profile"}
        about |= {"link": asdict(self.link), "paths": paths, "version": foundryrt.__version__}
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def run(self) -> linklevel.Errors:
        """Errors by receiver, each a list over the SNRs; the same in every process.

        Payload, channel and noise follow from seed and index alone. One thread: sums of several
        threads would round in another order, and the processes have the processors.
        """
        from threadpoolctl import threadpool_limits

        rng = np.random.default_rng([self.seed, self.index])
        with threadpool_limits(1):
            if self.kind == "equalizers":
                return linklevel.equalizers(
                    self.link, self.profile, self.snrs, self.iterations, self.fractions, rng
                )
            if self.kind == "peaks":
                return peaks(self.link, rng)
            if self.kind == "decoding":
                return decoding(self.link, self.profile, self.snrs, rng)
            return linklevel.estimation(self.link, self.profile, self.snrs, rng, self.clip_db)
