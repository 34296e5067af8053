"""The benchmarks that need torch: options without a GPU, and a tiny run of what runs on a CPU."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.__main__ import application
from benchmarks.catalogue import BENCHMARKS
from benchmarks.parse import geometry
from benchmarks.parse.drafts import Drafts, shared_verification
from benchmarks.parse.models import CONFIGS, random_parameters
from benchmarks.serving import serve


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_every_benchmark_says_its_options(name: str) -> None:
    done = CliRunner().invoke(application([name]), [name, "--help"], env={"TERM": "dumb"})
    assert done.exit_code == 0, done.output
    assert "--output" in done.output


def test_toy_models_try_the_benchmark_of_real_geometry(tmp_path) -> None:
    output = tmp_path / "geometry.json"
    geometry.run(parts="decode,host,prefill,long,mixed", tiny=True, output=output)
    parts = json.loads(output.read_text())
    found, rows = parts["decode"], parts["host"]["rows"]
    assert found["device"] and found["by_batch"] and found["decode_over_bandwidth"] > 0
    for row in rows:
        # The model says the token after the last.
        assert row["seconds_graph"] > 0 and row["follows"] == [16, 17, 18, 19]
    assert [row["batch"] for row in rows] == [1, 1, 4, 4]
    for row in parts["prefill"]["rows"]:
        assert row["seconds"] > 0 and row["tokens_per_second"] > 0
        assert row["same_tokens"] == row["prompts"] == 4
    long = parts["long"]["rows"]
    assert [row["prompts"] for row in long if row["kind"] == "prefill"] == [1, 2] * 2
    steps = [(row["position"], row["batch"]) for row in long if row["kind"] == "step"]
    assert steps == [(24, 1), (24, 2), (96, 1), (96, 2)] * 2
    assert all(row["seconds"] > 0 for row in long)
    loads = [row for row in parts["mixed"]["rows"] if "load" in row]
    assert [row["mixed"] for row in loads] == [False, False, True, True]
    assert all(row["right"] == row["requests"] == 9 for row in loads)


def test_toy_models_try_verifications_that_share_a_pass() -> None:
    model = CONFIGS["tiny"], random_parameters(CONFIGS["tiny"], "cpu", 1.0)
    given = Drafts(16, 4, (32, 64), (2, 3))
    rows = list(shared_verification(model, "cpu", given))
    assert [(row["rows"], row["drafts"]) for row in rows] == [(32, 2), (32, 3), (64, 2), (64, 3)]
    for row in rows:
        assert min(row["pass"], row["passes"], row["wall"], row["wall_in_turn"]) > 0


def test_toy_models_do_not_touch_the_results() -> None:
    with pytest.raises(typer.BadParameter, match="mean nothing"):
        geometry.run(tiny=True)


def test_a_toy_model_tries_the_comparison_of_servers(tmp_path) -> None:
    output = tmp_path / "serve.json"
    serve.run(
        engines="ours", parts="start,throughput", concurrent="1,3", starts=1, folder=tmp_path,
        tiny=True, output=output,
    )  # fmt: skip
    found = json.loads(output.read_text())
    ours = found["start"]["tiny"]["ours"]
    [start] = ours["timelines"]
    times = list(start["ms"].values())
    assert next(iter(start["ms"])) == "python" and start["ms"].keys() >= {"open", "first token"}
    assert times[0] > 0 and times == sorted(times)
    # The process was started before its first line ran, and the clock has ticks of 10 ms.
    assert start["ms"]["first token"] - 20 < ours["first_token_s"] * 1e3
    assert 0 <= start["ready"] <= start["graphs"]
    for level, row in found["throughput"]["tiny"]["ours"]["at"].items():
        # Every answer counts on from its prompt.
        assert row["right"] == row["requests"] == 4 * max(2, int(level)) and not row["failed"]
        assert row["tokens"] == 8 * row["requests"] and row["tokens_per_second"] > 0
    assert (tmp_path / "serve-logs" / "tiny.ours.log").read_text().count("listening") == 1
