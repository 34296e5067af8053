"""The captured receiver in a fresh process: the LLRs of the receiver itself, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from otfs_pipeline.frames import recording, source
from otfs_pipeline.receiver.native import NativeReceiver
from tests.host.otfs_link import LINK, save_bundle

REPLAY = """
import sys
import numpy as np
from foundryrt.session import Session
bundle, samples, out = sys.argv[1:]
with Session.open(bundle) as session:
    graph, llr = session.graph("receive"), []
    for frame in np.load(samples):
        session.write("samples", frame)
        graph.launch()
        llr.append(graph.read("llr"))
np.save(out, np.stack(llr))
loaded = {"foundryc", "otfs_pipeline.receiver.native", "otfs_pipeline.capture"} & set(sys.modules)
sys.exit(f"imported: {loaded}" if loaded else 0)
"""


LINKS = {pilot: replace(LINK, pilot=pilot) for pilot in ("point", "spread")}


@pytest.fixture(scope="module", params=LINKS)
def pilot(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def bundle(pilot: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bundle(tmp_path_factory.mktemp("otfs") / "otfs.fdy", LINKS[pilot])


def test_llrs_are_those_of_the_receiver(bundle: Path, pilot: str, tmp_path: Path) -> None:
    link = LINKS[pilot]
    frames = np.stack([f.samples for f in source.synthetic(link, 20.0, 2, 3)])
    np.save(tmp_path / "samples.npy", frames)
    subprocess.run(
        [sys.executable, "-c", REPLAY, bundle, tmp_path / "samples.npy", tmp_path / "llr.npy"],
        check=True,
        timeout=120,
    )
    got = np.load(tmp_path / "llr.npy")
    receiver = NativeReceiver(link)
    for frame, llr in zip(frames, got, strict=True):
        np.testing.assert_array_equal(llr, receiver(torch.from_numpy(frame))["llr"].numpy())


def test_the_driver_runs_without_the_receivers_code(
    bundle: Path, pilot: str, tmp_path: Path
) -> None:
    frames = list(source.synthetic(LINKS[pilot], 25.0, 7, 4))
    recording.write_recording(str(tmp_path / "link"), frames, LINKS[pilot], 7)
    results = []
    for arguments in (
        ["--frames", "4", "--snr", "25", "--seed", "7"],
        ["--iq", str(tmp_path / "link.sigmf-meta")],
    ):
        command = "import sys; from foundryrt.cli import main; sys.argv[0] = 'foundryrt'; main()"
        done = subprocess.run(
            [sys.executable, "-c", command, "run", bundle, "--json", *arguments],
            check=True,
            capture_output=True,
            timeout=120,
        )
        results.append(json.loads(done.stdout))
    assert results[0]["ber"] == results[1]["ber"]
    assert 0 < results[0]["ber"] < 2e-2
    assert results[1]["ber_frames"] == 4
