"""The run driver with a graph that has the front end: here numpy's, on a stand-in session."""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundryrt.host.pipeline import HostPipeline
from otfs_pipeline import run, send
from otfs_pipeline.frames import feed
from otfs_pipeline.frames.slots import SlotFrame, Slots, slot_memory
from otfs_pipeline.frames.source import UNKNOWN, Frame
from otfs_pipeline.front.reach import Reach
from otfs_pipeline.front.signature import FRONT, waveform_signature, waveform_span
from otfs_pipeline.front.synchronize import FrontEnd
from otfs_pipeline.front.track import Burst, Tracker
from otfs_pipeline.link import reference
from otfs_pipeline.waveform.impair import Impairments
from otfs_pipeline.waveform.simulate import Simulation
from tests.unit.test_otfs_source import LINK, ReferenceSession

SHAPE = waveform_signature(LINK).inputs["waveform"].shape


def arrays(count: int = 1) -> list[np.ndarray]:
    """Memory for Slots, BURSTS in each array."""
    size = Reach.of(LINK, waveform_span(LINK)).capacity
    return [np.zeros(size, np.complex64) for _ in range(count)]


COUNT = 4


class WaveformSession(ReferenceSession):
    """Its graph `receive_waveform` is the numpy front end, and the numpy receiver behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.waveform = np.zeros(SHAPE, np.complex64)
        self.doubtful = np.zeros((), np.uint8)
        self.results["front"] = np.zeros(len(FRONT), np.float32)
        self.results["frame"] = np.zeros(LINK.q, np.complex64)
        self.front = FrontEnd(LINK)
        self.name, self.launches = "receive", 0

    def graph(self, name: str) -> WaveformSession:
        self.name = name
        return self

    def pipeline(
        self,
        inputs: tuple[str],
        outputs: tuple[str, ...],
        depth: int,
        lazy: tuple[str, ...] = (),
        timed: bool = False,
    ) -> HostPipeline:
        if self.name == "receive":
            return super().pipeline(inputs, outputs, depth, lazy)
        assert inputs == ("waveform", "doubtful") and set(lazy) <= set(outputs)
        given = {"waveform": self.waveform, "doubtful": self.doubtful}
        wanted = {name: self.results[name] for name in outputs}
        return HostPipeline(self.launch_waveform, nullcontext(), given, wanted, depth, timed)

    def launch_waveform(self) -> None:
        self.launches += 1
        damaged = self.front.counts.damaged
        found = self._found()
        told = dict.fromkeys(FRONT, 0.0)
        told["given"] = 0 if self.front.counts.damaged > damaged else 2
        if found is None:
            self.results["variance"][...] = np.nan
        else:
            got = reference.receive(found.samples.astype(np.complex128), LINK)
            for name in ("bits", "llr", "symbols", "variance"):
                self.results[name][...] = getattr(got, name)
            mean = self.front.report()["carrier_hz"]
            told |= {"given": 1, "delay": found.start, "carrier": found.carrier_hz,
                     "mean_carrier": mean, "rms": 1.0}  # fmt: skip
        self.results["front"][:] = list(told.values())

    def _found(self):
        """What the front end makes of the burst, which for it begins at sample 0."""
        if not self.waveform.any():
            return None
        first, last = self.front._tracker._span
        at = np.arange(first, last) - waveform_span(LINK)[0]
        samples = np.where(
            (at >= 0) & (at < self.waveform.size), self.waveform.take(at, mode="clip"), 0
        )
        burst = Burst(samples, 0, bool(self.doubtful), False, 1)
        return next(self.front._frame(burst), None)


def recorded(folder: Path, *options: str) -> str:
    path = str(folder / "air")
    sent = ["--raw", "--grid", LINK.grid, "--frames", str(COUNT), "--snr", "25", "--seed", "5"]
    assert send.main([*sent, "--output", path, "--carrier", "700", "--delay", "7.6", *options]) == 0
    return f"{path}.sigmf-meta"


@pytest.mark.parametrize("options", [(), ("--gap", "700", "--gap-at", "16000")])
def test_a_run_reports_as_with_the_front_end_in_the_driver(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    air, reports, logs = recorded(tmp_path, *options), [], []
    for session in (WaveformSession(), ReferenceSession()):
        log = tmp_path / f"{type(session).__name__}.bits"
        asked = run.Options(iq=air, raw=True, bits_out=str(log))
        reports.append(run.run(session, asked, json=True))
        logs.append(log.read_bytes())
    assert logs[0] == logs[1]
    one, two = (report["front_end"] for report in reports)
    assert (one.pop("in_graph"), two.pop("in_graph")) == (True, False)
    assert one["carrier_hz"] == pytest.approx(two["carrier_hz"], rel=1e-5)
    counts = ("frames", "locks", "jumps", "damaged")
    assert [one[name] for name in counts] == [two[name] for name in counts]
    for name in ("frames", "ber", "ber_frames", "skipped"):
        assert reports[0][name] == reports[1][name], name
    lost = bool(options)
    assert reports[0]["frames"] == COUNT - lost and one["damaged"] == lost


@pytest.mark.parametrize("most", [2, COUNT - 1, COUNT])
@pytest.mark.parametrize("depth", [1, 3])
def test_slots_without_a_frame_do_not_count(tmp_path: Path, most: int, depth: int) -> None:
    air = recorded(tmp_path, "--gap", "700", "--gap-at", "16000")  # In the third of four.
    for session in (WaveformSession(), ReferenceSession()):
        options = run.Options(iq=air, raw=True, max_frames=most, depth=depth)
        report = run.run(session, options, json=True)
        assert report["front_end"]["damaged"] == (most > 2)
        assert report["frames"] == report["front_end"]["frames"] == min(most, COUNT - 1)


def test_slots_without_a_frame_do_not_count_of_a_live_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces = np.array_split(np.delete(_stream(), np.s_[16_000:16_700]), 40)
    monkeypatch.setattr(feed, "_received", lambda *_: (Frame(piece, UNKNOWN) for piece in pieces))
    options = run.Options(shm="ring", raw=True, lossless=True, max_frames=COUNT - 1)
    for session in (WaveformSession(), ReferenceSession()):
        report = run.run(session, options, json=True)
        assert (report["frames"], report["front_end"]["damaged"]) == (COUNT - 1, 1)


def test_frames_have_the_carrier_and_drift_that_the_graph_found(tmp_path: Path) -> None:
    made = Simulation(LINK, 5, impairments=Impairments(snr_db=25.0, carrier_hz=900.0))
    stream = np.concatenate(list(made.pieces(range(COUNT))))
    # A sender's clock that is slow.
    stream = np.insert(stream, np.repeat(made.starts(COUNT)[1:], 4), 0)
    host = FrontEnd(LINK)
    expected = [*host.push(stream), *host.finish()]
    slots, session = Slots(LINK, arrays()), WaveformSession()
    found = [*slots.push(stream), *slots.finish()]
    # The preamble at the end has no frame.
    assert len(found) - 1 == len(expected) == COUNT
    for slot, one in zip(found, expected, strict=False):
        session.waveform[:] = slot.inputs["waveform"]
        session.doubtful[...] = slot.inputs["doubtful"]
        session.launch_waveform()
        frame = slot.told(session.results)
        assert frame is not None
        assert frame.carrier_hz == pytest.approx(one.carrier_hz, rel=1e-6)
        assert frame.drift_s * 2 * LINK.bandwidth == pytest.approx(one.drift)


def test_memory_is_used_again_when_a_frame_is_done_with() -> None:
    memory = arrays(2)
    slots, used = Slots(LINK, memory), list[int | None]()
    for frame in _pushed(slots, 5):
        used.append(_array_of(frame, memory))
        del frame
    assert set(used) == {0, 1}


def test_memory_is_not_used_again_while_a_frame_has_it() -> None:
    memory = arrays(2)
    kept = list(_pushed(Slots(LINK, memory), 5))
    expected = list(_pushed(Slots(LINK, arrays(9)), 5))
    # What does not fit in lies elsewhere.
    assert {_array_of(frame, memory) for frame in kept} == {0, 1, None}
    for one, two in zip(kept, expected, strict=True):
        np.testing.assert_array_equal(one.samples, two.samples)


def test_slots_of_a_run_have_room_in_its_memory() -> None:
    """As many as may be in use at once, whichever these are."""
    for used in (1, 2, 5, 12):
        memory = slot_memory(LINK, used, lambda size: np.zeros(size, np.uint8))
        held = deque[SlotFrame](maxlen=used)
        for frame in _pushed(Slots(LINK, memory), 9):
            assert _array_of(frame, memory) is not None
            held.append(frame)


def _array_of(frame: SlotFrame, memory: list[np.ndarray]) -> int | None:
    """The one of these arrays in which the frame's samples lie."""
    found = [at for at, one in enumerate(memory) if np.may_share_memory(one, frame.samples)]
    return found[0] if found else None


def _stream() -> np.ndarray:
    made = Simulation(LINK, 5, impairments=Impairments(snr_db=25.0))
    return np.concatenate(list(made.pieces(range(COUNT))))


def _pushed(slots: Slots, times: int) -> Iterator[SlotFrame]:
    """Those of the stream, so many times one after the other."""
    for piece in np.array_split(_stream(), 40) * times:
        yield from slots.push(piece)
    yield from slots.finish()


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 40_000), max_size=12), st.integers(4_000, 16_000))
def test_the_samples_of_a_slot_are_those_of_its_burst(cuts: list[int], gap: int) -> None:
    stream = np.delete(_stream(), np.s_[gap : gap + 700])
    memory, device = arrays(2), arrays(2)

    def upload(values: np.ndarray) -> None:
        for here, there in zip(memory, device, strict=True):
            begin = (values.ctypes.data - here.ctypes.data) // here.itemsize
            if 0 <= begin < here.size:
                there[begin : begin + values.size] = values

    slots, tracker = Slots(LINK, memory, upload), Tracker(LINK, waveform_span(LINK))
    expected = [
        (burst.start, burst.doubtful, burst.samples.copy())
        for bursts in (tracker.push(stream), tracker.finish())
        for burst in bursts
    ]
    given = list[tuple[int, bool]]()
    pieces = np.split(stream, sorted(min(cut, stream.size) for cut in cuts))
    for frame in itertools.chain(*map(slots.push, pieces), slots.finish()):
        samples = expected[len(given)][2]
        np.testing.assert_array_equal(frame.samples, samples)
        # What has been uploaded by now is the whole slot.
        at = _array_of(frame, memory)
        assert at is not None
        begin = (frame.samples.ctypes.data - memory[at].ctypes.data) // samples.itemsize
        np.testing.assert_array_equal(device[at][begin : begin + samples.size], samples)
        given.append((frame.start, bool(frame.inputs["doubtful"])))
    assert given == [(start, doubtful) for start, doubtful, _ in expected]


def test_a_slot_is_given_before_more_is_taken_than_it_needs() -> None:
    """However long the pieces of the stream are."""
    stream, reach = _stream(), Reach.of(LINK, waveform_span(LINK))
    slots, at = Slots(LINK, arrays(2)), 0
    ends = []
    while at < stream.size:
        space = slots.space()[: stream.size - at]
        space[:] = stream[at : at + len(space)]
        at += len(space)
        ends += [at - frame.start for frame in slots.took(len(space))]
    # The first waits for the lock.
    assert len(ends) == COUNT and ends[1:] == [reach.near] * (COUNT - 1)


def test_lost_samples_are_not_launched(tmp_path: Path) -> None:
    slots, stream = Slots(LINK, arrays()), _stream()
    begin = 10_000  # Of the preamble at the end, the fifth, there is no frame.
    zeroed = stream.copy()
    zeroed[begin : begin + 700] = 0
    slots.lose(begin, begin + 700)
    found = [*slots.push(zeroed), *slots.finish()]
    assert len(found) == COUNT and slots.report()["damaged"] == 1
    json.dumps(slots.report(), allow_nan=False)
