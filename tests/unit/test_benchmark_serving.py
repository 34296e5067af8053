"""The comparison of servers: what a client reads of a stream, and the ratios of two servers."""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_left
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serving import host, serve
from benchmarks.serving.load import percentiles, report
from benchmarks.serving.ratios import Results
from benchmarks.serving.servers import Setup, ours, vllm
from benchmarks.serving.stream import Connection, Reply, read, request
from foundryrt import options
from parse_runtime.capture.settings import Settings

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = b"\r\n0\r\n\r\n"


def event(**values: object) -> bytes:
    return b"data: " + json.dumps(values).encode() + b"\n\n"


def text(said: str) -> bytes:
    return event(choices=[{"text": said}])


def streamed(chunks: list[list[str]]) -> tuple[bytes, list[int]]:
    """A reply with its usage at the end; and where the chunk of each text ends."""
    raw, ends = HEAD, []
    *rest, last = [b"".join(map(text, chunk)) for chunk in chunks]
    tokens = sum(map(len, chunks))
    last += event(choices=[], usage={"completion_tokens": tokens}) + b"data: [DONE]\n\n"
    for number, body in enumerate([*rest, last]):
        raw += f"{len(body):x}\r\n".encode() + body
        ends += [len(raw)] * len(chunks[number])
        raw += b"\r\n"
    return raw.removesuffix(b"\r\n") + LAST, ends


@given(
    st.lists(
        st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=3), min_size=1, max_size=5
    ),
    st.lists(st.floats(0, 1), max_size=6),
)
def test_a_stream_is_read_however_it_is_cut(chunks: list[list[str]], cuts: list[float]) -> None:
    raw, ends = streamed(chunks)
    at = sorted({0, len(raw), *(int(cut * len(raw)) for cut in cuts)})
    pieces = [(float(i), raw[a:b]) for i, (a, b) in enumerate(pairwise(at))]
    told = read(Reply(pieces, whole=True))
    assert told.error == ""
    assert (told.text, told.tokens) == (
        "".join(said for chunk in chunks for said in chunk), sum(map(len, chunks)),
    )  # fmt: skip
    came = list(accumulate(len(data) for _, data in pieces))
    assert told.times == [float(bisect_left(came, end)) for end in ends]


@pytest.mark.parametrize(("raw", "whole", "error"), [
    (b"", False, "closed"),
    (b"HTTP/1.1 429 Too Many Requests\r\n\r\n{}", False, "429"),
    (streamed([["a"]])[0], False, "broke off"),
    (HEAD + b"5\r\ndata:" + LAST, True, "broke off"),
    (HEAD + b"x\r\n", True, "ValueError"),
    (HEAD + b"1e\r\n" + event(error="no device") + LAST, True, "no device"),
])  # fmt: skip
def test_what_is_no_answer_is_an_error(raw: bytes, whole: bool, error: str) -> None:
    told = read(Reply([(0.0, raw)], whole))
    assert error in told.error


def test_a_connection_notes_pieces_and_is_used_again() -> None:
    raw = streamed([["a"], ["b", "c"]])[0]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            asked = await reader.readuntil(b"}")
            assert asked.startswith(b"POST /v1/completions HTTP/1.1\r\n")
            for part in (raw[:70], raw[70:-3], raw[-3:]):
                writer.write(part)
                await asyncio.sleep(0.01)
        await reader.readuntil(b"}")
        writer.write(b"HTTP/1.1 500 Oh\r\ncontent-length: 9\r\n\r\n")
        await reader.read()
        writer.close()

    async def ask() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            connection = await Connection.to(server.sockets[0].getsockname()[1])
            for _ in range(2):
                reply = await connection.ask(request("/v1/completions", {"prompt": [1]}))
                assert (read(reply).text, len(reply.pieces)) == ("abc", 3)
            failed = await connection.ask(request("/v1/completions", {}))
            assert "500" in read(failed).error
            assert not connection.open

    asyncio.run(asyncio.wait_for(ask(), 20))


def test_a_load_is_told_by_its_answers() -> None:
    raw, _ = streamed([["a"], ["b"], ["c"]])
    # Each byte comes a millisecond after the one before.
    good = read(Reply([(i * 1e-3, raw[i : i + 1]) for i in range(len(raw))], True))
    found = report([good, good, read(Reply())], [0.0, 0.01, 0.0], ["abc", "abd", "abc"])
    assert (found["requests"], found["failed"], found["right"], found["tokens"]) == (3, 1, 1, 6)
    assert found["tokens_per_chunk"] == 1
    assert found["tokens_per_second"] == pytest.approx(6 / good.times[-1])
    assert found["first_token_ms"]["most"] == pytest.approx(good.times[0] * 1e3)
    assert found["between_tokens_ms"]["most"] == pytest.approx(max(good.gaps) * 1e3)
    assert "tokens" not in report([read(Reply())], [0.0], ["a"])


def test_percentiles_are_values_that_were_seen() -> None:
    assert percentiles([i / 1e3 for i in range(200)]) == {"p50": 100, "p99": 198, "most": 199}
    assert percentiles([0.5]) == {"p50": 500, "p99": 500, "most": 500}


def rate(tokens: float, failed: int = 0) -> dict[str, object]:
    return {"tokens_per_second": tokens, "failed": failed}


def times(first: float, failed: int = 0, arrivals: float = 9.0) -> dict[str, object]:
    shares = {"p50": first, "p99": 2 * first}
    return {"rate": arrivals, "failed": failed, "first_token_ms": shares,
            "between_tokens_ms": {"p50": 1.0, "p99": 1.0}}  # fmt: skip


def test_ratios_are_those_of_what_both_did(tmp_path: Path) -> None:
    path = tmp_path / "serve.json"

    def saved(*calls: tuple[str, str, str, dict[str, object]]) -> dict[str, dict[str, object]]:
        for part, model, engine, found in calls:
            Results(path, tiny=True).save(part, model, engine, found)
        return dict(json.loads(path.read_text()))

    throughput = saved(
        ("throughput", "qwen3-14b", "vllm", {"at": {"1": rate(10), "16": rate(99, 1)}}),
        ("throughput", "qwen3-0.6b", "vllm", {"at": {"1": rate(10), "16": rate(40)}}),
        ("throughput", "qwen3-0.6b", "ours", {"at": {"1": rate(12), "16": rate(30)}}),
        ("throughput", "qwen3-14b", "ours", {"at": {"1": rate(11), "16": rate(1), "64": rate(5)}}),
    )["throughput"]
    assert throughput["0.6B"]["over_vllm"] == 0.75
    assert throughput["14B"]["over_vllm_at"] == {"1": 1.1}
    assert throughput["device"] == "CPU" and "over_vllm" not in throughput

    poisson = saved(
        ("poisson", "qwen3-0.6b", "vllm", times(10)), ("poisson", "qwen3-0.6b", "ours", times(5)),
        ("poisson", "qwen3-14b", "vllm", times(10)), ("poisson", "qwen3-14b", "ours", times(9)),
    )["poisson"]  # fmt: skip
    assert poisson["first_token_p50_over_vllm"] == 0.9
    assert poisson["0.6B"]["first_token_p99_over_vllm"] == 0.5
    for other in (times(9, failed=1), times(9, arrivals=8.0)):
        poisson = saved(("poisson", "qwen3-14b", "ours", other))["poisson"]
        assert poisson["first_token_p50_over_vllm"] == 0.5
        assert not [key for key in poisson["14B"] if key.endswith("over_vllm")]

    start = saved(
        ("start", "qwen3-0.6b", "vllm", {"first_token_s": 50}),
        ("start", "qwen3-0.6b", "ours", {"first_token_s": 2}),
    )["start"]
    assert start["over_vllm"] == 0.04


def test_the_host_benchmark_serves_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uvicorn", reason="pip install 'foundry-graphs[serve]'")
    for name, value in {"VOCABULARY": 500, "TOKENS": 6, "SLOW_MS": 1.0}.items():
        monkeypatch.setattr(host, name, value)
    output = tmp_path / "host.json"
    host.run(streams="2", rounds=1, step_ms=0.5, before=host.ROOT, output=output)
    found = json.loads(output.read_text())
    for tree in ("before", "after"):
        own = found["streams_2"][tree]
        assert own["us_per_request"] > own["us_per_token"] > 0
        assert found["step_of_64"][tree]["ms_per_token"] >= 0
    assert found["streams_2"]["token_times_cheaper"] > 0


def test_what_ours_is_captured_with_are_settings() -> None:
    for sizes in (serve.Sizes(), serve.TINY):
        words = sizes.capture.replace("--no-relocate", "").split()
        own, rest = options.split(words, options.names(Settings))
        assert own == words and not rest
        given = dict(zip((name[2:].replace("-", "_") for name in own[::2]), own[1::2], strict=True))
        types = {name: type(getattr(Settings, name)) for name in given}
        values = {name: types[name](value) for name, value in given.items()}
        made = Settings(model="", max_len=sizes.max_len, **values)
        assert made.max_rounds == 0 and sizes.prompt in made.sizes().prefill
        assert sizes.prompt + sizes.tokens <= made.max_len


def test_servers_of_several_ranks_are_told_so_and_have_results_of_their_own(tmp_path: Path) -> None:
    alone = Setup(tmp_path / "qwen3-14b", 64, (), "", tmp_path, frozenset())
    two = replace(alone, ranks=2)
    assert ours(two, 1) == [
        str(two.bundle) if word == str(alone.bundle) else word for word in ours(alone, 1)
    ] + ["--tp", "2"]
    assert vllm(two, 1) == [*vllm(alone, 1), "--tensor-parallel-size", "2"]
    assert two.bundle != alone.bundle

    path = tmp_path / "results.json"
    for ranks, engine, tokens in ((1, "vllm", 10), (2, "vllm", 20), (2, "ours", 30)):
        found = {"at": {"1": {"tokens_per_second": tokens, "failed": 0}}}
        Results(path, True, ranks).save("throughput", "qwen3-14b", engine, found)
    throughput = json.loads(path.read_text())["throughput"]
    assert throughput["14B_tp2"]["over_vllm"] == 1.5
    assert "ours" not in throughput["14B"]
