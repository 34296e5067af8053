"""`foundryrt switch --tp`: a server goes on with other numbers of ranks while clients ask."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch

sys.path.insert(0, str(Path(__file__).parent))
from parse_command import capture
from parse_models import save
from parse_serving import Server, digest, served, until

from parse_runtime.capture.settings import Settings
from tests.host.rank_processes import alive, ranks_of

pytest.importorskip("starlette", reason="pip install 'foundry-graphs[serve]'")
pytest.importorskip("uvicorn", reason="pip install 'foundry-graphs[serve]'")

ASKED: list[dict[str, object]] = [
    {"prompt": f"question {i}", "max_tokens": 24, "seed": i, **how}
    for i, how in enumerate(
        [
            {"temperature": 0},
            {"temperature": 0.9, "parse": {"max_rounds": 0}},
            {"temperature": 0, "parse": {"threshold": 0.4}},
            {"temperature": 0.7, "top_k": 20},
        ]
    )
]
"""Drafted and judged, sampled by the graphs and on the host."""
ENDLESS: dict[str, object] = {
    "prompt": "x", "max_tokens": 150, "ignore_eos": True, "stream": True,
    "parse": {"max_rounds": 150, "resume_tokens": 1, "threshold": 1},
}  # fmt: skip
"""Takes a whole draft for every token."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of one model for one, two and four ranks, and of another for four."""
    folder = tmp_path_factory.mktemp("degree")
    save(folder / "tiny", "llama", num_attention_heads=8, num_key_value_heads=4)
    shutil.copytree(folder / "tiny", folder / "other")
    # In a part that no bundle for two ranks has a digest of.
    weights = safetensors.torch.load_file(folder / "tiny" / "model.safetensors")
    weights["model.layers.1.self_attn.q_proj.weight"][5] += 0.01
    path = folder / "other" / "model.safetensors"
    safetensors.torch.save_file(weights, path, metadata={"format": "pt"})
    for name, model, tp in (
        ("1", "tiny", 1),
        ("2", "tiny", 2),
        ("4", "tiny", 4),
        ("o", "other", 4),
    ):
        settings = Settings(
            model=str(folder / model), max_len=160, slots=3, prefill="16,64", verify="48x2,120x3",
            judge_prompt="ok?", yes="y", no="n", stride=4, tp=tp,
        )  # fmt: skip
        capture(settings, folder / f"{name}.fdy")
    return {name: folder / f"{name}.fdy" for name in "124o"}


@pytest.fixture(scope="module")
def expected(
    bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[str, str]]:
    """What a server of one process answers, without switches."""
    with served(bundles["1"], tmp_path_factory.mktemp("alone")) as server:
        return [stream(server, asked) for asked in ASKED]


@pytest.fixture
def server(bundles: dict[str, Path], tmp_path: Path) -> Iterator[Server]:
    with served(bundles["2"], tmp_path, "--tp", "2") as started:
        yield started


@pytest.fixture(scope="module")
def steady(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Of two ranks, for tests that change nothing of it; it ends as it is asked to."""
    with served(bundles["2"], tmp_path_factory.mktemp("steady"), "--tp", "2") as started:
        yield started
        started.process.terminate()
        assert started.process.wait(60) == 0


def stream(server: Server, asked: dict[str, object]) -> tuple[str, str]:
    """The text of an answer, and why it ended."""
    body = json.dumps({**asked, "stream": True}).encode()
    request = urllib.request.Request(f"{server.url}/v1/completions", body)
    with urllib.request.urlopen(request, timeout=120) as answer:
        lines = [line[6:] for line in answer.read().decode().splitlines() if line]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    assert not [chunk for chunk in chunks if "error" in chunk]
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    return "".join(choice["text"] for choice in choices), choices[-1]["finish_reason"]


@contextmanager
def streaming(server: Server, clients: int = 6) -> Iterator[list[tuple[int, tuple[str, str]]]]:
    """Clients that stream one answer after another; the answers, with what was asked."""
    got: list[tuple[int, tuple[str, str]]] = []
    going = True

    def client(number: int) -> None:
        while going:
            number = (number + 1) % len(ASKED)
            got.append((number, stream(server, ASKED[number])))

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(client, number) for number in range(clients)]
        try:
            until(lambda: len(got) > 2)
            yield got
        finally:
            going = False
    for each in running:
        each.result()


# From one process to ranks, from ranks to others, and back to one process.
@pytest.mark.parametrize(("degrees", "options"), [((2, 4, 1), ()), ((4, 2, 1), ("--stop-first",))])
def test_answers_are_complete_while_the_degree_changes(
    bundles: dict[str, Path],
    expected: list[tuple[str, str]],
    tmp_path: Path,
    degrees: tuple[int, ...],
    options: tuple[str, ...],
) -> None:
    assert len({text for text, _ in expected}) == len(ASKED)
    # As many clients as may wait, and run: requests that wait for a bundle are not counted.
    queue = ("--queue", "3")
    with served(bundles["1"], tmp_path, *queue) as server, streaming(server) as got:
        for degree in degrees:
            done = server.switch(bundles[str(degree)], "--tp", str(degree), "--json", *options)
            assert done.returncode == 0, done.stderr
            report = json.loads(done.stdout)
            assert report["ranks"] == degree and not report["continued"]
            assert (report["swap_ms"] > 0) == report["stopped_first"] == bool(options)
            assert report["open_seconds"] > 0 <= report["drain_seconds"]
            health = server.health()
            assert health["bundle"] == report["digest"] == digest(bundles[str(degree)])
            assert health["status"] == "ok" and health["ranks"] == degree
            assert sorted(ranks_of(server.process.pid).values()) == [*range(1, degree)]
            before = len(got)
            until(lambda before=before: len(got) > before + 6)
    assert all(answer == expected[number] for number, answer in got)


@contextmanager
def switching(
    server: Server, bundle: Path, *options: str
) -> Iterator[tuple[Future[subprocess.CompletedProcess[str]], dict[int, int]]]:
    """A switch under way, and the processes of all its new ranks, by rank."""
    before, count = ranks_of(server.process.pid), int(options[1]) - 1
    new: dict[int, int] = {}

    def begun() -> bool:
        there = ranks_of(server.process.pid)
        new.update({rank: process for process, rank in there.items() if process not in before})
        return len(new) == count

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.switch, bundle, *options)
        until(begun)
        yield asked, new


def with_torch(process: int) -> bool:
    """Whether a rank has come as far as its first graph."""
    return "libtorch_cpu" in Path(f"/proc/{process}/maps").read_text()


def test_what_cannot_be_switched_to_changes_nothing(
    steady: Server, bundles: dict[str, Path], expected: list[tuple[str, str]]
) -> None:
    ranks = ranks_of(steady.process.pid)
    with streaming(steady, 2) as got:
        for name, options, words in (
            ("o", ("--tp", "4"), "the bundle has other weights ('model.layers.1.self_attn.q_proj."),
            ("o", ("--tp", "4", "--stop-first"), "the bundle has other weights"),
            ("4", ("--tp", "2"), "the bundle was captured for 4 ranks: say --tp 4"),
            ("4", (), "say --tp 4"),
            ("1", ("--tp", "2"), "captured for 1 rank: leave it out"),
            ("4", ("--tp", "4", "--devices", "0,1,2,3"), "a host bundle uses no GPU"),
        ):
            refused = steady.switch(bundles[name], *options)
            assert refused.returncode == 1 and words in refused.stderr, refused.stderr
            assert refused.stdout == ""
        wrong = steady.switch(bundles["4"], "--tp", "4", "--devices", "a")
        assert wrong.returncode == 2 and "give GPUs by number" in wrong.stderr
        before = len(got)
        until(lambda: len(got) > before + 2)
    assert all(answer == expected[number] for number, answer in got)
    health = steady.health()
    assert health["bundle"] == digest(bundles["2"]) and health["switches"] == 0
    assert ranks_of(steady.process.pid) == ranks


# Before ranks meet, and while graphs are made; where the bundle before was closed for it, what
# leads back to it is the same.
@pytest.mark.parametrize(("late", "options"), [(False, ()), (True, ()), (True, ("--stop-first",))])
def test_new_ranks_that_are_killed_change_nothing(
    steady: Server,
    bundles: dict[str, Path],
    expected: list[tuple[str, str]],
    late: bool,
    options: tuple[str, ...],
) -> None:
    with streaming(steady, 2) as got:
        with switching(steady, bundles["4"], "--tp", "4", *options) as (asked, new):
            if late:
                until(lambda: with_torch(new[3]))
            os.kill(new[3], signal.SIGKILL)
            done = asked.result()
        assert done.returncode == 1 and f"{bundles['4']}: rank 3 (process {new[3]})" in done.stderr
        assert "was killed by SIGKILL" in done.stderr
        before = len(got)
        until(lambda: len(got) > before + 4)
    assert all(answer == expected[number] for number, answer in got)
    health = steady.health()
    assert (health["bundle"], health["switches"]) == (digest(bundles["2"]), 0)
    assert not any(map(alive, new.values())) and len(ranks_of(steady.process.pid)) == 1


def test_new_ranks_that_do_not_come_change_nothing(
    bundles: dict[str, Path], expected: list[tuple[str, str]], tmp_path: Path
) -> None:
    with served(bundles["1"], tmp_path, FOUNDRY_RANK_TIMEOUT="3") as server:
        with switching(server, bundles["2"], "--tp", "2") as (asked, new):
            os.kill(new[1], signal.SIGSTOP)
            refused = asked.result()
        assert refused.returncode == 1 and "rank 1 of 2 did not come within 3 s" in refused.stderr
        assert stream(server, ASKED[0]) == expected[0]
        assert not alive(new[1])


def test_a_rank_that_is_lost_during_a_switch_ends_the_server(
    server: Server, bundles: dict[str, Path]
) -> None:
    (old,) = ranks_of(server.process.pid)
    with ThreadPoolExecutor(2) as pool:
        client = pool.submit(raw, server, ENDLESS)
        until(lambda: server.health()["running"] == 1)
        with switching(server, bundles["4"], "--tp", "4") as (switch, new):
            os.kill(old, signal.SIGKILL)
            refused = switch.result()
            assert refused.returncode == 1
            # The rank is none of the bundle that was to be served.
            assert f"{bundles['4']}: rank" not in refused.stderr
        lost = f"rank 1 (process {old}) was killed by SIGKILL"
        assert lost in client.result() and '"error"' in client.result()
    assert server.process.wait(60) == 1
    assert server.process.stderr and f"error: {lost}" in server.process.stderr.read()
    until(lambda: not any(map(alive, new.values())), 10)


def test_a_rank_that_is_lost_while_requests_wait_ends_the_server(
    server: Server, bundles: dict[str, Path]
) -> None:
    (old,) = ranks_of(server.process.pid)
    with ThreadPoolExecutor(3) as pool:
        client = pool.submit(raw, server, ENDLESS)
        until(lambda: server.health()["running"] == 1)
        switch = pool.submit(server.switch, bundles["4"], "--tp", "4", "--stop-first")
        until(lambda: server.health()["status"] == "switching")
        waiting = pool.submit(server.send, "/v1/completions", {"prompt": "x"})
        time.sleep(0.2)
        os.kill(old, signal.SIGKILL)
        lost = f"rank 1 (process {old}) was killed by SIGKILL"
        assert lost in client.result() and '"error"' in client.result()
        status, answer = waiting.result()
        assert status == 503 and lost in answer["error"]["message"]
        assert switch.result().returncode == 1
    assert server.process.wait(60) == 1


def test_a_rank_that_is_lost_after_a_switch_ends_the_server(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    with served(bundles["1"], tmp_path) as server:
        assert server.switched(bundles["2"], "--tp", "2")["ranks"] == 2
        (rank,) = ranks_of(server.process.pid)
        os.kill(rank, signal.SIGKILL)
        assert server.process.wait(60) == 1
        lost = f"error: rank 1 (process {rank}) was killed by SIGKILL; start all ranks again"
        assert server.process.stderr and lost in server.process.stderr.read()


def test_where_there_is_no_way_back_clients_are_told(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    here = Path(shutil.copy(bundles["1"], tmp_path / "here.fdy"))
    with served(here, tmp_path) as server, ThreadPoolExecutor(1) as pool:
        with switching(server, bundles["2"], "--tp", "2", "--stop-first") as (asked, new):
            here.unlink()
            assert server.health()["status"] == "switching"
            client = pool.submit(server.send, "/v1/completions", {"prompt": "x"})
            time.sleep(0.2)
            os.kill(new[1], signal.SIGKILL)
            assert asked.result().returncode == 1
        status, answer = client.result()
        assert status == 503 and "here.fdy cannot be opened again" in answer["error"]["message"]
        assert server.process.wait(60) == 1


def raw(server: Server, asked: dict[str, object]) -> str:
    """All that comes of a stream."""
    body = json.dumps(asked).encode()
    request = urllib.request.Request(f"{server.url}/v1/completions", body)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return str(answer.read().decode())
