"""A session of several ranks on the stand-in driver, each rank a process of its own."""

from __future__ import annotations

import numpy as np
import pytest

from foundryrt import Session, UsageError
from foundryrt.bundle.ranks import MISSING
from foundryrt.cuda.backend import CudaBackend
from foundryrt.errors import FoundryError, RankLost
from foundryrt.ranks.device import hello
from foundryrt.ranks.followers import Followers
from tests.fakecuda import bundle as counters
from tests.fakecuda.test_placement import relocated, save
from tests.fakecuda.test_slabs import bundle, words, write  # noqa: F401  a fixture

INITIAL = counters.INITIAL.astype(np.int32)


@pytest.fixture
def opened(tmp_path, fake):
    """Three ranks on the one GPU that the stand-in has."""
    path = write(tmp_path / "ranks.fdy")
    with (
        Followers.start(path, 3, [0, 0, 0]) as followers,
        Session.open(path, followers=followers) as session,
    ):
        yield session
    assert fake.live == ""


def test_launches_writes_and_reads(opened):
    opened.write("state", INITIAL + 5)
    opened.graph("step", by=11).launch()
    assert opened.read("ranks").tolist()[:3] == [0, 3, 0]
    np.testing.assert_array_equal(opened.read("state"), INITIAL + 16)
    copies = opened.graph("last").readback("state")
    copies.start()
    np.testing.assert_array_equal(copies.wait(), INITIAL + 16)
    opened.synchronize()
    opened.wait()
    assert opened.ready() == 3


def test_a_rank_that_did_not_answer_is_seen_with_the_next_read(opened):
    own = opened._backend()._own
    copies = opened.graph("last").readback("state")
    own.abandon(2)
    copies.start()
    with pytest.raises(RankLost, match=r"rank 2 \(GPU 0, process \d+\) did not answer within"):
        copies.wait()
    with pytest.raises(RankLost, match="rank 2"):
        opened.read("state")


def test_tensors_are_only_to_be_read(opened):
    tensor = opened.tensor("state")
    assert tensor.__cuda_array_interface__["data"][1] is True
    np.testing.assert_array_equal(tensor.read(), INITIAL)
    with pytest.raises(UsageError, match="only to be read"):
        tensor.write(INITIAL)
    with pytest.raises(BufferError, match="only to be read"):
        tensor.__dlpack__()


def test_another_number_of_ranks_beside(tmp_path, fake):
    """The one process there is has both bundles, the second wherever there is room."""
    alone = save(tmp_path / "alone.fdy", relocated(counters.capture()))
    paths = {world: write(tmp_path / f"{world}.fdy", world) for world in (2, 3)}

    def beside(session, world):
        return session.beside(
            paths.get(world, alone),
            lambda own, other: [],
            lambda _: Followers.start(paths[world], world, [0] * world) if world > 1 else None,
        )

    session = Session.open(alone)
    for world in (2, 3, 1):
        after = beside(session, world)
        for by, each in ((11, session), (25, after), (11, session), (11, after)):
            before = each.read("state")
            each.graph("step", by=by).launch()
            np.testing.assert_array_equal(each.read("state"), before + by)
        assert (after.followers.world if after.followers else 1) == world
        session.close()
        session = after
    session.close()
    assert fake.live == ""


def test_abandoning_sets_the_word_beside_the_stream(bundle, fake):  # noqa: F811
    backend = CudaBackend(bundle)
    before = words(backend, bundle)
    backend.abandon(2)
    after = words(backend, bundle)
    assert after[MISSING] == 3
    before[MISSING] = 3
    assert after == before
    backend.close()


def test_fewer_gpus_than_ranks(tmp_path, fake):
    path = write(tmp_path / "ranks.fdy")
    with (
        Followers.start(path, 3) as followers,
        pytest.raises(FoundryError, match=r"3 ranks are to use GPUs 0, 1, 2; here is 1\. Name"),
    ):
        Session.open(path, followers=followers)


def test_a_rank_says_which_gpu_it_has(bundle, fake):  # noqa: F811
    said = hello(bundle, 1, 3, 0)
    assert said.gpu == "GPU-00000000-0000-0000-0000-000000000001" and said.visible == (said.gpu,)
    with pytest.raises(FoundryError, match="rank 1 is to use GPU 1, and sees 1"):
        hello(bundle, 1, 3, 1)
