"""`foundryrt switch`: a server of a tiny bundle goes on with another one under requests."""

from __future__ import annotations

import http.client
import json
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from parse_command import capture, foundryrt
from parse_models import GREEDY, save
from parse_serving import QUESTIONS, Server, asking, digest, served, until

from foundryrt.bundle.reader import Bundle
from foundryrt.session import Session
from parse_runtime.capture.settings import Settings
from parse_runtime.engine.batch import Batch
from parse_runtime.graphs.continuing import shared_regions
from parse_runtime.graphs.loading import open_models

pytest.importorskip("starlette", reason="pip install 'foundry-graphs[serve]'")
pytest.importorskip("uvicorn", reason="pip install 'foundry-graphs[serve]'")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of one model: other passes, other lengths; of another model, of another workload."""
    folder = tmp_path_factory.mktemp("switch")
    save(folder / "tiny", "llama")
    save(folder / "other", "llama", num_hidden_layers=1)
    shutil.copytree(folder / "tiny", folder / "tokens")
    tokenizer = folder / "tokens" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("<|system|>", "<|tool|>"))
    settings = Settings(
        model=str(folder / "tiny"), max_len=160, slots=3, prefill="16,64", verify="48x2,120x3",
        judge_prompt="ok?", yes="y", no="n", stride=4, speculate="draft", eagle_depth=2,
    )  # fmt: skip
    variants = {
        "x": settings,
        "y": replace(settings, prefill="8,32", verify="32x2,120x3", decode="1,3", stride=8),
        "plain": replace(settings, evidence="0"),
        "words": replace(settings, yes="a", no="b"),
        "alone": replace(settings, speculate=""),
        "short": replace(settings, max_len=140, slots=2),
        "other": replace(settings, model=str(folder / "other")),
        "tokens": replace(settings, model=str(folder / "tokens")),
    }
    for name, chosen in variants.items():
        capture(chosen, folder / f"{name}.fdy")
    damaged = bytearray((folder / "y.fdy").read_bytes())
    with Bundle.open(folder / "y.fdy") as opened:
        section = opened.sections[opened.manifest.templates[0].section]
    damaged[section.offset] ^= 1
    (folder / "damaged.fdy").write_bytes(damaged)
    return {name: folder / f"{name}.fdy" for name in [*variants, "damaged"]}


@pytest.fixture
def server(bundles: dict[str, Path], tmp_path: Path) -> Iterator[Server]:
    with served(bundles["x"], tmp_path, "--queue", "40") as started:
        yield started


def test_answers_go_on_where_the_state_is_shared(server: Server, bundles: dict[str, Path]) -> None:
    expected = {question: server.ask(question) for question in QUESTIONS}
    assert len(set(expected.values())) > 3
    with asking(server) as got:
        for name in ("y", "x", "y"):
            report = server.switched(bundles[name])
            assert report["continued"] and report["added_bytes"] is None
            assert report["digest"] == server.health()["bundle"] == digest(bundles[name])
            assert report["graphs"] == server.health()["graphs"] == server.health()["ready"]
            assert report["ready_seconds"] > report["open_seconds"] > 0 < report["swap_ms"]
            before = len(got)
            until(lambda before=before: len(got) > before + 6)
    assert all(text == expected[question] for question, text in got)
    assert server.health()["switches"] == 3 and server.health()["failed_in_a_row"] == 0
    page = urllib.request.urlopen(server.url + "/metrics").read().decode()
    assert "\nparse_switches_total 3.0\n" in page
    assert f'parse_bundle_info{{digest="{digest(bundles["y"])}",name="tiny"}} 1.0' in page
    # What a request may ask for follows the bundle.
    body = {"prompt": "x", "max_tokens": 20, "parse": {"threshold": 1}}
    cuts = server.send("/v1/completions", body)[1]["parse"]["verdicts"][0]
    assert cuts[0][0] == 8


def test_models_know_what_their_caches_hold(bundles: dict[str, Path]) -> None:
    """The draft model, which is behind, is brought up to the target before it drafts."""
    prompt, depth = list(b"Why?"), 2
    with Session.open(bundles["x"]) as x, x.beside(bundles["y"], shared_regions) as y:
        (target, draft), (after, drafter) = open_models(x), open_models(y)
        token = target.prefill(1, prompt, 0, GREEDY)
        after.take_over(target)
        drafter.take_over(draft)
        (tokens,) = after.extend(Batch([1], [token], [len(prompt)], [GREEDY]))
        # Both models are one: all that was drafted is right.
        assert len(tokens) == depth + 1
        expected = [token]
        for position in range(len(prompt), len(prompt) + depth + 1):
            expected += target.decode(Batch([1], expected[-1:], [position], [GREEDY]))
        assert tokens == expected[1:]


@pytest.mark.parametrize("name", ["short", "plain", "words", "alone"])
def test_answers_end_with_their_bundle_where_the_state_is_not_shared(
    server: Server, bundles: dict[str, Path], name: str
) -> None:
    expected = {question: server.ask(question) for question in QUESTIONS}
    with asking(server) as got, ThreadPoolExecutor(1) as pool:
        # Nearly as long as the caches of X: Y could not have begun it.
        long = pool.submit(server.ask, "long", max_tokens=154)
        until(lambda: server.health()["running"] + server.health()["waiting"] > 4)
        report = server.switched(bundles[name])
        assert not report["continued"] and report["swap_ms"] == 0
        assert len(long.result()) > 100
        before = len(got)
        until(lambda: len(got) > before + 5)
    assert all(text == expected[question] for question, text in got)
    assert server.health()["bundle"] == digest(bundles[name])
    if name == "short":
        refused = server.send("/v1/completions", {"prompt": "long", "max_tokens": 150})
        assert refused[0] == 400 and "140" in refused[1]["error"]["message"]


def test_what_cannot_be_switched_to_changes_nothing(
    server: Server, bundles: dict[str, Path], tmp_path: Path
) -> None:
    expected = server.ask("steady")
    missing = tmp_path / "missing.fdy"
    with asking(server):
        for bundle, words in (
            (bundles["other"], "region 'weights' cannot be shared"),
            (bundles["tokens"], "another tokenizer of the target model"),
            (bundles["damaged"], "damaged.fdy: section"),
            (missing, "no such file"),
            (Path(__file__), "not a .fdy bundle"),
        ):
            refused = server.switch(bundle)
            assert refused.returncode == 1 and words in refused.stderr, refused.stderr
            assert refused.stdout == "" and "\n" not in refused.stderr.strip().split("error: ")[1]
    assert server.ask("steady") == expected
    health = server.health()
    assert health["bundle"] == digest(bundles["x"]) and health["switches"] == 0
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "other.fdy" not in maps and "damaged.fdy" not in maps
    done = server.switch(bundles["y"])
    assert done.returncode == 0 and server.ask("steady") == expected
    assert f"{bundles['y']} is served: tiny, " in done.stdout and "went on with it" in done.stdout


def endless(server: Server) -> http.client.HTTPConnection:
    """A client whose answer takes a whole draft for every token,"""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    parse = {"max_rounds": 150, "resume_tokens": 1, "threshold": 1}
    body = {"prompt": "x", "max_tokens": 150, "parse": parse, "ignore_eos": True}
    connection.request("POST", "/v1/completions", json.dumps(body))
    until(lambda: server.health()["running"] == 1)
    return connection


def test_a_second_switch_is_refused_while_one_is_under_way(
    server: Server, bundles: dict[str, Path]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        client = endless(server)
        first: Future[dict] = pool.submit(server.switched, bundles["short"])
        until(lambda: server.health()["switches"] == 1)
        second = server.switch(bundles["y"])
        assert second.returncode == 1 and "a switch is under way" in second.stderr
        # Other answers are of the new bundle meanwhile.
        assert server.send("/v1/models")[1]["data"][0]["max_model_len"] == 140
        assert len(server.ask("short")) > 20
        assert not first.done() and server.health()["running"] == 1
        client.close()
        assert first.result()["drain_seconds"] > 0
    assert server.health()["running"] == 0
    assert server.switched(bundles["y"])["name"] == "tiny"


def test_orders_are_taken_of_those_alone_who_know_the_token(
    server: Server, bundles: dict[str, Path], tmp_path: Path
) -> None:
    (file,) = tmp_path.glob("foundryrt-serve-*.token")
    assert file.stat().st_mode & 0o777 == 0o600
    body = {"bundle": str(bundles["y"])}
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": file.read_text()}):
        status, refused = server.send("/admin/switch", body, **headers)
        assert status == 401 and "admin token" in refused["error"]["message"]
    token = {"Authorization": f"Bearer {file.read_text()}"}
    for wrong in ({}, {"bundle": 1}, {"bundle": ""}, {"bundle": "a\0"}, {**body, "more": 1}):
        assert server.send("/admin/switch", wrong, **token)[0] == 400
    elsewhere = server.switch(bundles["y"], XDG_RUNTIME_DIR=str(tmp_path / "none"))
    assert elsewhere.returncode == 1 and "there is no token" in elsewhere.stderr
    another = server.switch(bundles["y"], FOUNDRY_ADMIN_TOKEN="another one's token")
    assert another.returncode == 1 and "admin token is needed" in another.stderr
    assert server.health()["switches"] == 0
    assert server.send("/admin/switch", body, **token)[1]["digest"] == digest(bundles["y"])
    server.process.terminate()
    assert server.process.wait(60) == 0 and not file.exists()


def test_a_server_ends_while_a_switch_is_under_way(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    token = "a token of sixteen letters"
    with (
        served(bundles["x"], tmp_path, "--grace", "0", FOUNDRY_ADMIN_TOKEN=token) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        assert not list(tmp_path.glob("*.token"))
        client = endless(server)
        asked = pool.submit(server.switch, bundles["short"], FOUNDRY_ADMIN_TOKEN=token)
        until(lambda: server.health()["switches"] == 1)
        server.process.terminate()
        assert server.process.wait(60) == 0
        assert client.getresponse().status == 503
        assert asked.result().returncode == 1 and "the server stops" in asked.result().stderr


def test_switch_says_what_is_wrong(bundles: dict[str, Path]) -> None:
    for arguments, code, words in (
        (("--url", "127.0.0.1"), 2, "write http://HOST:PORT"),
        (("--url", "http://nowhere.invalid"), 2, "set FOUNDRY_ADMIN_TOKEN"),
        (("--url", "http://127.0.0.1:1"), 1, "there is no token of a server at port 1"),
    ):
        refused = foundryrt("switch", bundles["y"], *arguments)
        assert refused.returncode == code and words in refused.stderr
