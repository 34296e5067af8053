"""Gathered rows and draft trees on the GPU: what torch gives on the CPU."""

from __future__ import annotations


def test_kernels_give_what_torch_gives(run):
    report = run("parse_gather.py")
    assert len(report) > 300
    assert {name: count for name, count in report.items() if count} == {}
