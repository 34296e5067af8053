"""BLAKE3 on the device agrees with the reference, whatever the length."""

from __future__ import annotations


def test_the_devices_digests_are_blake3s(run):
    report = run("digests.py")
    assert report["compared"] > 500
    assert report["wrong"] == []
