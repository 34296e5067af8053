"""The live page's server: over HTTP, as a browser, Prometheus and a script use it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from foundryrt.errors import UsageError
from otfs_pipeline.frames import source
from otfs_pipeline.frames.condition import Conditions
from otfs_pipeline.link import frame
from otfs_pipeline.live import document
from otfs_pipeline.live.server import serving
from otfs_pipeline.live.state import KEPT, State
from otfs_pipeline.options import Options
from tests.unit.test_otfs_condition import GOOD
from tests.unit.test_otfs_live import LINK, values

PERIOD = LINK.frame_seconds


def receive(state: State, conditions: Conditions, count: int = 1) -> None:
    """What the threads of a run do."""
    sent = source.simulate(LINK, 20.0, 3, conditions.frames)
    symbols = np.full(frame.data_symbols(LINK), 0.3 + 0.9j, np.complex64)
    outputs = {name: np.array(value) for name, value in GOOD.items()} | {"symbols": symbols}
    for _ in range(count):
        state.watch.take(sent, outputs, conditions.take(sent, outputs, {"bit_errors": 1}))
        state._tally.milliseconds.append(0.5)


@pytest.fixture
def live(capsys: pytest.CaptureFixture[str]) -> Iterator[tuple[State, Conditions, str]]:
    state = State(LINK, PERIOD)
    with serving(state, ("127.0.0.1", 0)):
        found = re.search(r"live: (http://127\.0\.0\.1:\d+/)", capsys.readouterr().err)
        assert found is not None
        yield state, Conditions(LINK), found[1]


def get(url: str) -> bytes:
    until = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return answer.read()
        except urllib.error.URLError as error:
            # The server's thread has just been started.
            if isinstance(error, urllib.error.HTTPError) or time.monotonic() > until:
                raise


class Events:
    """The states that come as server-sent events."""

    def __init__(self, url: str) -> None:
        get(url + "metrics")
        self._stream = urllib.request.urlopen(url + "events", timeout=20)
        assert self._stream.headers["content-type"].startswith("text/event-stream")

    def __iter__(self) -> Iterator[dict]:
        for line in self._stream:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])


def floats(packed: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed), "<f4")


def test_updates_show_what_was_received_and_the_last_one_the_end(live) -> None:
    state, conditions, url = live
    events = iter(Events(url))
    first = next(events)
    assert first["seconds"] is None and first["ended"] is False
    assert first["constellation"] is first["channel"] is first["spectrum"] is None
    assert first["latency"]["counts"] == [] and first["frames"] == []
    receive(state, conditions, 3)
    for shown in events:
        if shown["constellation"] and shown["totals"]["frames"] == 3:
            break
    assert floats(shown["constellation"]["symbols"])[:2] == pytest.approx([0.3, 0.9])
    assert shown["constellation"]["evm_percent"] == pytest.approx(100 * GOOD["evm"])
    assert len(shown["constellation"]["levels"]) == 4
    assert floats(shown["spectrum"]["db"][0]).size == 128
    assert [entry["frame"] for entry in shown["frames"]] == [0, 1, 2]
    assert sum(shown["latency"]["counts"]) == 3
    assert shown["history"]["ber"] == [pytest.approx(1 / frame.payload_bits(LINK))]
    picture = shown["channel"]
    assert floats(picture["db"][0]).size == picture["rows"] * picture["columns"]
    assert picture["delay_us"][1] == pytest.approx(1e6 / LINK.bandwidth)
    assert picture["doppler_hz"] == pytest.approx([-6 / PERIOD, 1 / PERIOD])


def test_the_run_ends_with_the_final_state(capsys: pytest.CaptureFixture[str]) -> None:
    state, conditions = State(LINK, PERIOD), Conditions(LINK)
    with serving(state, ("127.0.0.1", 0)):
        url = re.search(r"http://\S+/", capsys.readouterr().err)[0]
        events = iter(Events(url))
        next(events)
        receive(state, conditions, 2)
    *_, last = events
    assert last["ended"] is True and last["totals"]["frames"] == 2
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(url.split(":")[2][:-1])))


def test_frames_and_metrics_need_no_viewer(live) -> None:
    state, conditions, url = live
    receive(state, conditions, KEPT + 5)
    lines = [json.loads(line) for line in get(url + "frames").splitlines()]
    assert [line["frame"] for line in lines] == list(range(5, KEPT + 5))
    assert lines[0]["evm_percent"] == pytest.approx(100 * GOOD["evm"])
    after = get(f"{url}frames?after={KEPT + 2}").splitlines()
    assert [json.loads(line)["frame"] for line in after] == [KEPT + 3, KEPT + 4]
    got = values(get(url + "metrics"))
    assert got["otfs_frames_total", ""] == got["otfs_latency_seconds_count", ""] == KEPT + 5
    assert state.watch.sample is None
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(url + "frames?after=last")
    assert refused.value.code == 400 and b"need the number" in refused.value.read()


def test_the_page_fetches_nothing_and_runs_nothing_else(live) -> None:
    _, _, url = live
    get(url)
    with urllib.request.urlopen(url) as answer:
        html, policy = answer.read().decode(), answer.headers["content-security-policy"]
    assert not re.findall(r"https?:|@import|url\(", html)
    for tag in ("style", "script"):
        inside = re.search(f"<{tag}>(.*)</{tag}>", html, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_an_address_that_is_taken_or_none(live) -> None:
    port = int(live[2].split(":")[2][:-1])
    with (
        pytest.raises(UsageError, match=f"--live 127.0.0.1:{port}: Address already in use"),
        serving(State(LINK, PERIOD), ("127.0.0.1", port)),
    ):
        pass
    for text, expected in {
        "0": ("127.0.0.1", 0), "8080": ("127.0.0.1", 8080), "0.0.0.0:80": ("0.0.0.0", 80),
        "[::1]:9": ("::1", 9),
    }.items():  # fmt: skip
        assert Options(live=text).live_address == expected
    for text in ("x", "70000", "host:", "a:-1", "::1", "8080 "):
        with pytest.raises(UsageError, match=r"write \[HOST:\]PORT"):
            Options(live=text)


def test_every_file_of_the_page_is_in_it() -> None:
    folder = Path(document.__file__).parent / "page"
    html = document.document().html
    for path in folder.iterdir():
        if path.suffix != ".html":
            assert path.read_text() in html
