"""`--model` in place of a bundle: which options go where, and what is said where nothing can be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foundryrt import on_demand
from foundryrt.errors import FoundryError, UsageError
from foundryrt.options import split


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What `foundryc` is asked for; it is taken to succeed, and torch to be there."""
    found: list[list[str]] = []

    def foundryc(arguments: list[str]) -> dict[str, str]:
        found.append(arguments)
        return {"key": "0" * 64, "cache": "hit"}

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("FOUNDRY_CACHE", raising=False)
    monkeypatch.setattr(on_demand, "_foundryc", foundryc)
    monkeypatch.setattr(on_demand.importlib.util, "find_spec", lambda name: name)
    return found


def test_options_go_to_the_capture_or_to_the_server(
    calls: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--port", "0", "--model=m", "--slots", "2", "--weights", "w", "--target", "host"]
    bundle, *rest = on_demand.with_bundle("serve", words)
    assert rest == ["--port", "0", "--weights", "w"]
    capture = calls[0]
    assert capture[-5:] == ["--model=m", "--slots", "2", "--target", "host"]
    assert capture[:5] == ["capture", "--workload", "parse", "--fit", "--json"]
    assert capture[capture.index("--cache") + 1] == str(tmp_path / "foundry" / "captures")
    assert capture[capture.index("--output") + 1] == bundle
    # Other options have a bundle of their own, and a cache that is named is the one.
    monkeypatch.setenv("FOUNDRY_CACHE", "s3://bucket/bundles")
    other = on_demand.with_bundle("serve", [*words, "--max-len", "64"])[0]
    assert other != bundle and "--cache" not in calls[1]
    on_demand.with_bundle("serve", [*words, "--cache", "elsewhere"])
    assert calls[2].count("--cache") == 1


def test_what_a_run_takes_itself_is_not_the_captures(calls: list[list[str]]) -> None:
    words = ["--prompt", "Why?", "--threshold", "0.7", "--model", "m", "--json", "--two-stage"]
    rest = on_demand.with_bundle("run", words)[1:]
    assert rest == ["--prompt", "Why?", "--threshold", "0.7", "--json", "--two-stage"]
    assert calls[0][-2:] == ["--model", "m"]


def test_how_many_ranks_is_for_the_capture_and_the_run(calls: list[list[str]]) -> None:
    words = ["--tp", "2", "--model", "m", "--devices", "1,0", "--prompt=Why?"]
    rest = on_demand.with_bundle("run", words)[1:]
    assert rest == ["--devices", "1,0", "--prompt=Why?", "--tp", "2"]
    assert calls[0][-4:] == ["--tp", "2", "--model", "m"]


def test_a_workload_without_models_is_named(calls: list[list[str]]) -> None:
    for name in ("otfs", "hf"):
        with pytest.raises(UsageError, match=f"foundryc capture --workload {name} --model"):
            on_demand.with_bundle("run", ["--workload", name, "--model", "m"])
    assert not calls


@pytest.mark.parametrize(
    ("command", "words", "wrong"),
    [
        ("run", ["--prompt", "x", "--promtp", "y"], "no option --promtp"),
        ("run", ["--json"], "--prompt TEXT or --input"),
        ("run", ["--prompt", "x", "--temperature", "-1"], "temperature"),
        ("serve", ["--port", "99999", "--trust", "key.pem"], "port 99999"),
        ("serve", ["--json"], "no option --json"),
    ],
)
def test_nothing_is_captured_for_a_command_that_is_refused(
    command: str, words: list[str], wrong: str, calls: list[list[str]]
) -> None:
    with pytest.raises(UsageError, match=wrong):
        on_demand.with_bundle(command, ["--model", "m", *words])
    assert not calls


def test_nothing_is_captured_for_a_command_that_asks_for_help() -> None:
    assert on_demand.asked(["--model", "m"]) and on_demand.asked(["--model=m", "--prompt", "x"])
    assert not on_demand.asked(["--model", "m", "--help"])


@pytest.mark.parametrize("missing", ["foundryc", "torch"])
def test_without_a_capture_side_a_bundle_of_before_is_taken(
    missing: str,
    calls: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = {"foundryc": object(), "torch": object(), missing: None}
    monkeypatch.setattr(on_demand.importlib.util, "find_spec", found.get)
    with pytest.raises(FoundryError, match=rf"needs {missing}, .*'foundry-graphs\[capture"):
        on_demand.obtained("parse", ["--model", "m"])
    monkeypatch.setattr(on_demand.importlib.util, "find_spec", lambda name: name)
    bundle = on_demand.obtained("parse", ["--model", "m"])
    bundle.touch()
    monkeypatch.setattr(on_demand.importlib.util, "find_spec", found.get)
    assert on_demand.obtained("parse", ["--model", "m"]) == bundle
    assert f"{missing} is not installed: taking {bundle}" in capsys.readouterr().err
    assert len(calls) == 1


CHILD = """
import subprocess, sys
from foundryrt import on_demand
real = subprocess.Popen
def sleeper(command, **options):
    process = real([sys.executable, "-c", "import time; time.sleep(60)"], **options)
    print(process.pid, flush=True)
    return process
subprocess.Popen = sleeper
on_demand._foundryc(["capture"])
"""


def test_a_capture_ends_with_the_command(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        child = int(run.stdout.readline())
        time.sleep(0.2)  # until it waits
        run.send_signal(signal.SIGTERM)
        assert run.wait(20) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_arguments_are_split_with_their_values() -> None:
    words = ["--a", "1", "free", "--b=2", "--flag", "--c-d", "x", "--a=3"]
    assert split(words, ["a", "c_d"]) == (
        ["--a", "1", "--c-d", "x", "--a=3"],
        ["free", "--b=2", "--flag"],
    )


def test_a_workload_that_lacks_its_packages_hides_no_other(
    calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = on_demand.find_run

    def lacking(*lost: str) -> None:
        def found(name: str, asked: str) -> object:
            if name in lost:
                raise FoundryError(f"workload {name!r} needs packages")
            return find(name, asked)

        monkeypatch.setattr(on_demand, "find_run", found)

    lacking("hf")
    on_demand.with_bundle("serve", ["--model", "m"])
    assert calls[0][:3] == ["capture", "--workload", "parse"]
    lacking("hf", "parse")
    with pytest.raises(FoundryError, match="'hf' needs packages; workload 'parse' needs"):
        on_demand.with_bundle("serve", ["--model", "m"])
    with pytest.raises(FoundryError, match=r"^workload .parse. needs packages$"):
        on_demand.with_bundle("serve", ["--model", "m", "--workload", "parse"])
