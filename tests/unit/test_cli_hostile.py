"""What a careless user gives the commands: one line on stderr, the right exit code, no waiting."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest

from foundryrt.atomic import AtomicFile
from foundryrt.console import note, run_app
from foundryrt.cuda import early
from tests.attacks.samples import Parts, parts, with_manifest

FOUNDRYC = [sys.executable, "-c", "from foundryc.cli import main; main()"]
FOUNDRYRT = [sys.executable, "-c", "from foundryrt.start import main; main()"]


def refused(command: list[str], *arguments: object, **options: object) -> tuple[int, str]:
    """Exit code, and the one line on stderr without its beginning."""
    done = subprocess.run(
        [*command, *map(str, arguments)], stderr=subprocess.PIPE, timeout=300, **options
    )  # type: ignore[call-overload]
    text = done.stderr.decode()
    assert text.startswith("error: ") and text.count("\n") == 1, text
    return done.returncode, text.removeprefix("error: ").rstrip("\n")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return parts().write(tmp_path / "a.fdy")


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe.fdy"
    os.mkfifo(path)
    return path


def test_a_pipe_is_no_bundle_and_no_key(bundle: Path, pipe: Path) -> None:
    expected = (2, f"{pipe}: is not a regular file")
    assert refused(FOUNDRYC, "inspect", pipe) == expected
    assert refused(FOUNDRYC, "diff", bundle, pipe) == expected
    assert refused(FOUNDRYC, "verify", bundle, "--trust", pipe) == expected
    assert refused(FOUNDRYC, "sign", bundle, "--key", pipe) == expected
    assert refused(FOUNDRYRT, "run", pipe) == expected
    endless = (2, "/dev/zero: is not a regular file")
    assert refused(FOUNDRYC, "sign", bundle, "--key", "/dev/zero") == endless


@pytest.mark.parametrize("arguments", [["inspect"], ["inspect", "--json"], ["verify"]])
def test_a_full_disk_behind_stdout(bundle: Path, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        code, line = refused(FOUNDRYC, *arguments, bundle, stdout=full)
    assert code == 1 and line.endswith(": No space left on device")


def test_an_output_that_is_no_file_is_refused_before_anything_is_done(pipe: Path) -> None:
    for command in (["capture", "--workload", "otfs"], ["cache", "get", pipe.parent, "0" * 64]):
        code, line = refused(FOUNDRYC, *command, "-o", pipe)
        assert (code, line) == (2, f"{pipe}: is not a regular file; name one such as model.fdy")
    with pytest.raises(OSError, match="not a regular file"):
        AtomicFile(pipe)
    assert pipe.is_fifo()


def test_no_room_for_a_key(tmp_path: Path) -> None:
    # Python ignores the signal, so that a write beyond the limit fails as on a full disk.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50)); "
    limited = [*FOUNDRYC[:2], limit + FOUNDRYC[2]]
    code, line = refused(limited, "keygen", tmp_path / "key")
    assert (code, line) == (1, f"{tmp_path / 'key'}: cannot be written: File too large")
    assert not list(tmp_path.iterdir())


def test_a_failure_of_the_system_without_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())

    def times_out() -> None:
        raise TimeoutError("the place did not answer")

    with pytest.raises(SystemExit) as ended:
        run_app(times_out)
    assert ended.value.code == "error: output: the place did not answer"


def test_no_thread_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())

    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading._start_new_thread", refuse)
    early.begin()  # the command itself says so
    with pytest.raises(SystemExit, match=r"^error: no thread can be started: raise ulimit -u"):
        run_app(threading.Thread(target=int).start)
    with pytest.raises(RuntimeError, match="something else"):
        run_app(Mock(side_effect=RuntimeError("something else")))


def test_a_context_has_few_queues_unless_another_number_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("threading._start_new_thread", Mock(side_effect=RuntimeError))
    monkeypatch.delenv("CUDA_DEVICE_MAX_CONNECTIONS", raising=False)
    for expected in (early.QUEUES, "16"):
        early.begin()
        assert os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] == expected
        monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "16")


def test_nobody_reads_the_output(bundle: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as closed:
        done = subprocess.run(
            [*FOUNDRYC, "inspect", bundle], stdout=closed, stderr=subprocess.PIPE, timeout=300
        )
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full", "2>&9"])
def test_nobody_hears_of_an_error(stderr: str) -> None:
    """It has its exit code all the same, and stdout is not where it is told."""
    read, write = os.pipe()
    os.close(read)  # the reader of 9 has gone
    command = f'exec "$@" 9>&{write} {stderr}'
    done = subprocess.run(
        ["bash", "-c", command, "bash", *FOUNDRYC, "inspect", "no.fdy"], stdout=subprocess.PIPE,
        timeout=300, pass_fds=[write],
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "full"), BrokenPipeError()])
def test_a_note_that_nobody_can_read_is_no_error(
    monkeypatch: pytest.MonkeyPatch, failure: OSError
) -> None:
    stderr = Mock(write=Mock(side_effect=failure))
    for each in (None, stderr):
        monkeypatch.setattr("sys.stderr", each)
        note("x")
    assert stderr.write.called


def test_a_name_that_is_not_utf8(bundle: Path) -> None:
    odd = os.fsencode(bundle.parent) + b"/\xff.fdy"
    os.rename(bundle, odd)
    for command in ("inspect", "verify"):
        environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
        done = subprocess.run([*FOUNDRYC, command, odd], capture_output=True, env=environment)
        assert (done.returncode, done.stderr) == (0, b"")
        assert rb"\udcff.fdy" in done.stdout


def test_a_cache_without_a_name() -> None:
    assert refused(FOUNDRYC, "cache", "ls", "")[0] == 2


ESCAPE = "\x1b[2J\u202e[/x]"


def hostile_manifest(place: str) -> Parts:
    """Text of the manifest that nothing but an error's line shows."""
    manifest = msgspec.to_builtins(parts().manifest, builtin_types=(bytes,))
    if place == "field":
        manifest[ESCAPE] = 1
    elif place == "column":
        manifest["graphs"][0]["columns"]["word"]["dtype"] = ESCAPE
    elif place == "columns":
        manifest["graphs"][0]["columns"][ESCAPE] = {"dtype": "u8", "offset": 0, "count": 0}
    elif place == "long":
        manifest["x" * 100_000 + ESCAPE] = 1
    else:
        manifest["weights"]["files"][0]["name"] = f"../{ESCAPE}"
    sample = parts()
    sample.encoded = msgspec.msgpack.encode(manifest)
    return sample


@pytest.mark.parametrize("place", ["field", "column", "columns", "long", "weight"])
def test_errors_show_no_text_that_steers(tmp_path: Path, place: str) -> None:
    path = hostile_manifest(place).write(tmp_path / "a.fdy")
    code, line = refused(FOUNDRYC, "verify", path)
    assert code == 1 and line.isprintable() and len(line) < 1000


def test_names_that_steer_terminals_and_markup(tmp_path: Path) -> None:
    before = parts().manifest
    workload = msgspec.structs.replace(
        before.workload, settings={"a[/x]": "[/x]", "ratio": float("nan")}
    )
    file = msgspec.structs.replace(before.weights.files[0], hint="/a[/x]\x1b[2J\u202e")
    changed = with_manifest(
        workload=workload,
        producer={"[/x]": "[bold]"},
        weights=msgspec.structs.replace(before.weights, files=(file,)),
    )
    graph = changed.manifest.graphs[0]
    bare = msgspec.structs.replace(graph, columns={"value": graph.columns["value"]})
    changed.manifest = msgspec.structs.replace(changed.manifest, graphs=(bare,))
    (tmp_path / "[").mkdir()
    path = changed.write(tmp_path / "[" / "x].fdy")
    for arguments in (["inspect"], ["inspect", "--json"], ["diff", path]):
        done = subprocess.run([*FOUNDRYC, *arguments, path], capture_output=True, text=True)
        # Comparing reads the members, which are found incomplete.
        assert done.returncode == (1 if arguments[0] == "diff" else 0)
        assert "Traceback" not in done.stderr
        assert all(line.isprintable() for line in (done.stdout + done.stderr).split("\n"))
        if "--json" in arguments:
            assert json.loads(done.stdout)["manifest"]["workload"]["settings"]["ratio"] is None


def test_a_full_disk_is_told_with_the_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(OSError) as failed, AtomicFile(tmp_path / "page.html"):
        raise OSError(errno.ENOSPC, "No space left on device")  # as of a write
    assert failed.value.filename == str(tmp_path / "page.html") and not [*tmp_path.iterdir()]
