"""Random numbers in graphs, on the stand-in driver: what a launch finds, how far it advances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foundryc.capture import RegionImage
from foundryc.capture_file import load, save
from foundryc.write import write_bundle
from foundryrt.bundle.schema import Random, Requirements, Tensor
from foundryrt.errors import UsageError
from foundryrt.session import Session
from tests.fakecuda import bundle as counters

SEED, STEP = 0xFEDC_BA98_7654_3210, 12


@pytest.fixture
def path(tmp_path, fake):
    """Graph `step` by=11 draws numbers, `last` none."""
    capture = counters.capture()
    first, *others = capture.graphs
    capture = replace(
        capture,
        requirements=Requirements(memory=6 << 20, architecture="sm_90", driver=13000),
        regions=[*capture.regions, RegionImage("foreign 0", 0x7F0000000000, 1024, owner="torch")],
        tensors=[
            *capture.tensors,
            *(
                Tensor(
                    name=name, region=2, offset=offset, dtype="int64", shape=(1,), strides=(1,),
                    role="state",
                )
                for name, offset in (("random.seed", 0), ("random.offset", 512))
            ),
        ],
        graphs=[replace(first, random=STEP), *others],
        random=Random(seed=2, offset=3, initial_seed=SEED),
    )  # fmt: skip
    save(capture, tmp_path / "random.capture")
    write_bundle(tmp_path / "random.fdy", load(tmp_path / "random.capture"), "random", {}, {})
    return tmp_path / "random.fdy"


def state(session: Session) -> tuple[int, int]:
    seed, offset = (session.read(f"random.{name}") for name in ("seed", "offset"))
    return int(seed.view(np.uint64)[0]), int(offset[0])


def test_a_launch_finds_what_torch_would_have_put_there(path, fake):
    with Session.open(path) as session:
        session.graph("last").launch()
        assert state(session) == (0, 0)
        for launched in range(3):
            session.graph("step", by=11).launch()
            assert state(session) == (SEED, launched * STEP)
            session.graph("last").launch()
        session.seed(5)
        session.graph("step", by=11).launch()
        assert state(session) == (5, 0)
        session.seed(-1)
        session.graph("step", by=11).launch()
        assert state(session) == ((1 << 64) - 1, 0)
    assert fake.live == ""


def test_each_session_begins_anew(path, fake):
    for _ in range(2):
        with Session.open(path) as session:
            session.graph("step", by=11).launch()
            assert state(session) == (SEED, 0)


@pytest.mark.parametrize("seed", [1 << 64, -(1 << 63) - 1])
def test_a_seed_that_does_not_fit_is_refused(path, fake, seed):
    with Session.open(path) as session, pytest.raises(UsageError, match="must fit in 64 bits"):
        session.seed(seed)


def test_without_random_numbers_there_is_nothing_to_seed(tmp_path, fake):
    with (
        Session.open(counters.write(tmp_path / "c.fdy")) as session,
        pytest.raises(UsageError, match="nothing to seed"),
    ):
        session.seed(1)
