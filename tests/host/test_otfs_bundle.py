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

from otfs_pipeline.frames import source, writing
from otfs_pipeline.receiver.native import NativeReceiver
from otfs_pipeline.settings import Settings
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


LINKS = {
    "point": LINK,
    "spread": replace(LINK, pilot="spread"),
    "prefix": replace(LINK, waveform="cp"),
}


@pytest.fixture(scope="module", params=LINKS)
def link(request: pytest.FixtureRequest) -> Settings:
    return LINKS[request.param]


@pytest.fixture(scope="module")
def bundle(link: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bundle(tmp_path_factory.mktemp("otfs") / "otfs.fdy", link)


def test_llrs_are_those_of_the_receiver(bundle: Path, link: Settings, tmp_path: Path) -> None:
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
    bundle: Path, link: Settings, tmp_path: Path
) -> None:
    frames = list(source.synthetic(link, 25.0, 7, 4))
    writing.write_recording(str(tmp_path / "link"), frames, link, 7)
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
