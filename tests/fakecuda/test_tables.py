"""Graph tables that contradict themselves: the native core finds it before anything uses them."""

from __future__ import annotations

import numpy as np
import pytest

from foundryrt.bundle import tables
from foundryrt.errors import FoundryError
from foundryrt.session import Session
from tests.fakecuda import bundle as counters
from tests.fakecuda.test_placement import save

# Nodes: memset, kernel, kernel, empty, copy, one after the other; 6, 6, 6, 0 and 15 words.
WRONG = {
    "an unknown kind": ({"kind": [3, 9, 1, 4, 2]}, "its kind is unknown"),
    "an unknown function": ({"function": {1: 2}}, "calls an unknown function"),
    "parameters that fall": ({"parameter_start": {2: 40}}, "lie outside their column"),
    "parameters left over": ({"parameter_start": {5: 32}}, "do not span their columns"),
    "a skeleton cut short": ({"skeleton_start": {5: 1}}, "do not span their columns"),
    "an edge to no node": ({"edge_to": {3: 5}}, "edge 3 goes backwards, or to no node"),
    "an edge backwards": ({"edge_from": {1: 2}, "edge_to": {1: 1}}, "edge 1 goes backwards"),
    "an edge to itself": ({"edge_to": {1: 1}}, "edge 1 goes backwards"),
    "relocations twice": (
        {"relocation_word": [10, 10], "relocation_region": [0, 0]},
        "relocations are out of order",
    ),
    "a relocation beyond": (
        {"relocation_word": [33], "relocation_region": [0]},
        "relocations are out of order or outside",
    ),
    "relocations of no region": ({"relocation_word": [10]}, "relocations do not match"),
    "fewer kinds": ({"kind": [3, 1, 1, 4]}, "kind has not 5 entries"),
    "fewer starts": ({"skeleton_start": [0]}, "skeleton_start has not 6 entries"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_session_refuses_a_table_with(name, tmp_path, fake, monkeypatch):
    changes, said = WRONG[name]
    pack = tables.pack

    def packed(columns, kinds):
        """As the file of someone else may hold them."""
        if "kind" in columns and len(columns["kind"]) == 5:
            columns = dict(columns)
            for column, values in changes.items():
                if isinstance(values, dict):
                    changed = np.array(columns[column])
                    changed[list(values)] = list(values.values())
                    values = changed
                columns[column] = values
        return pack(columns, kinds)

    with monkeypatch.context() as patch:
        patch.setattr("foundryc.write.pack", packed)
        patch.setattr("foundryrt.bundle.reader.Bundle.check_tables", lambda bundle: None)
        path = save(tmp_path / "c.fdy", counters.capture())
    with Session.open(path) as session, pytest.raises(FoundryError, match=said):
        session.wait()
    assert fake.live == ""
