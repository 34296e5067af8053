"""A pipeline of the host target, as a device's would be used."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

from foundryrt.errors import UsageError
from foundryrt.host.pipeline import HostPipeline


def test_times_are_kept_where_they_were_asked_for() -> None:
    values, doubled = np.zeros(3), np.zeros(3)

    def launch() -> None:
        doubled[...] = 2 * values

    def pipeline(timed: bool) -> HostPipeline:
        return HostPipeline(launch, nullcontext(), {"x": values}, {"y": doubled}, 2, timed)

    own, ends = pipeline(timed=True), []
    for slot in (0, 1, 0):
        own.submit(slot, {"x": np.full(3, slot + 1.0)})
        assert own.wait(slot)["y"].tolist() == [2 * (slot + 1.0)] * 3
        ends.extend(own.moments(slot))
    assert ends[0] > 0 and ends == sorted(ends)
    with pytest.raises(UsageError, match="timed=True"):
        pipeline(timed=False).moments(0)
