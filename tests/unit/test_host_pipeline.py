"""Launches one after another on the host."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

from foundryrt.errors import UsageError
from foundryrt.host.pipeline import HostPipeline


def test_times_are_kept_where_they_are_asked_for() -> None:
    inputs, outputs = {"x": np.zeros(2, np.float32)}, {"y": np.zeros(2, np.float32)}

    def made(timed: bool) -> HostPipeline:
        launch = lambda: np.copyto(outputs["y"], inputs["x"])  # noqa: E731
        pipeline = HostPipeline(launch, nullcontext(), inputs, outputs, 2, timed)
        pipeline.submit(1, {"x": np.ones(2, np.float32)})
        assert pipeline.wait(1)["y"].tolist() == [1, 1]
        return pipeline

    arrived, computed, done = made(True).moments(1)
    assert 0 < arrived <= computed <= done
    with pytest.raises(UsageError, match="timed=True"):
        made(False).moments(1)
