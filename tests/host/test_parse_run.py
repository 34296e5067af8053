"""`foundryrt run` of a tiny bundle, as users call it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from parse_command import COMMAND, foundryrt


def test_run_of_json_lines(bundle: Path) -> None:
    lines = [
        {"prompt": "first", "max_new_tokens": 20},
        {"messages": [{"role": "user", "content": "why?"}], "parse": {"max_rounds": 0}},
        {"prompt": "third", "temperature": 0.9, "seed": 3, "top_p": 0.8, "stop": ["\n"]},
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    done = foundryrt("run", bundle, "--input", "-", "--max-new-tokens", 12, "--json", stdin=text)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["requests"] == 3 and report["failed"] == 0
    assert [r["tokens"] for r in report["results"]] == [20, 12, 12]
    options = ("--max-rounds", 0, "--max-new-tokens", 12, "--json")
    alone = json.loads(foundryrt("run", bundle, "--prompt", "why?", *options).stdout)
    assert report["results"][1]["text"] == alone["text"]
    bad = foundryrt("run", bundle, "--input", "-", stdin='{"prompt": "x", "stride": 1}\n' + text)
    assert bad.returncode == 2 and "1 of 4 prompts failed: stdin line 1" in bad.stderr
    assert "[1] error: stdin line 1" in bad.stdout and "[4] " in bad.stdout


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(f'{{"prompt": "{i}", "max_new_tokens": 60}}\n' for i in range(20)))
    return path


def test_results_go_to_a_file_beside_a_bar_on_a_terminal(bundle: Path, questions: Path) -> None:
    terminal, stderr = os.openpty()
    command = [*COMMAND, "run", str(bundle), "--input", str(questions), "--max-new-tokens", "9"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
        os.close(stderr)
        shown = []
        thread = threading.Thread(target=lambda: shown.append(drained(terminal)))
        thread.start()
        assert process.stdout is not None
        results = process.stdout.read()
    thread.join()
    os.close(terminal)
    assert results.count(" tokens/s, ") == 20 and "[20] " in results
    assert "20/20" in shown[0] and "tokens/s" not in shown[0]


def drained(terminal: int) -> str:
    parts = []
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 1 << 16):
            parts.append(part)
    return b"".join(parts).decode()


def test_an_interrupt_keeps_the_results_so_far(bundle: Path, questions: Path) -> None:
    command = [*COMMAND, "run", str(bundle), "--input", str(questions)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"[1] ")
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and b"Traceback" not in errors
    assert b"[20] " in out and b"cancelled; " in out


@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [("--input - <&-", 2, "stdin is closed"), ("--prompt x >&-", 1, "stdout is closed")],
)
def test_closed_streams_are_named(bundle: Path, redirection: str, code: int, message: str) -> None:
    command = f'"{sys.executable}" -c "{COMMAND[2]}" run "{bundle}" {redirection}'
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == code and done.stderr == f"error: {message}\n"


@pytest.mark.parametrize("form", [["--prompt", "x"], ["--prompt", "x", "--json"], ["--input"]])
def test_an_output_that_takes_no_more(bundle: Path, questions: Path, form: list[str]) -> None:
    command = [*COMMAND, "run", str(bundle), "--max-new-tokens", "9", *form]
    command += [str(questions)] if form == ["--input"] else []
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 1 and done.stderr == "error: stdout: No space left on device\n"
    closed, output = os.pipe()
    os.close(closed)
    done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(output)
    assert done.returncode == 1 and done.stderr == ""
