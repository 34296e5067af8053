"""Large stored tensors become several sources, so that several threads can take their digests."""

from __future__ import annotations

import numpy as np
import pytest

from foundryc import weights
from foundryc.weights import StoredTensor, WeightSlice, slices


@pytest.mark.parametrize(("source_row", "rows"), [(0, 37), (5, 20), (8, 8), (36, 1)])
def test_the_blocks_fill_what_the_slice_would(tmp_path, monkeypatch, source_row, rows):
    monkeypatch.setattr(slices, "_BLOCK", 100)
    values = np.arange(37 * 6, dtype=np.float32).reshape(37, 6)
    path = tmp_path / "weights"
    path.write_bytes(b"head" + values.tobytes())
    stored = StoredTensor(path, "w", "float32", (37, 6), 4, values.nbytes)
    part = WeightSlice(stored, rows=rows, columns=4, source_row=source_row, source_column=2, row=3)
    parts = slices.in_blocks(part)
    assert len(parts) > 1 or rows <= 8
    assert all(part.stored.length <= 100 for part in parts)
    whole = weights.materialize([part], (48, 4), "float32")
    assert np.array_equal(weights.materialize(parts, (48, 4), "float32"), whole)
    built = weights.build_weights([(0, [part])])
    assert len(built.sources) == len(built.recipes[0].copies) == len(parts)
