"""Workloads: chosen by their options, installed, or given as a file or module."""

from __future__ import annotations

import shutil
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from foundryc import workload as capture_side
from foundryc.cache.request import Request
from foundryc.workload import CaptureWorkload, chosen_by
from foundryrt import options, workload
from foundryrt.errors import FoundryError, UsageError
from foundryrt.workload import FILE_PREFIX, find_run, preparing

SAMPLE = Path(__file__).parent / "workload_sample.py"


@dataclass(frozen=True)
class Decoder:
    model: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Radio:
    grid: str = ""
    seed: int = 0


def module(settings: type) -> ModuleType:
    made = ModuleType("made")
    made.Settings = settings
    made.record = lambda recorder, settings: None
    return made


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Two installed workloads that share the option --seed."""
    known = {"decoder": module(Decoder), "radio": module(Radio)}
    monkeypatch.setattr(workload, "names", lambda group: sorted(known))
    monkeypatch.setattr(workload, "installed", lambda group, name: known[name])
    return known


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--model", "x"], "decoder"),
        (["--seed=3", "--grid=4"], "radio"),
        (["--grid", "4", "--unheard-of"], "radio"),
    ],
)
def test_an_option_of_its_own_names_the_workload(
    two: object, arguments: list[str], name: str
) -> None:
    assert chosen_by(arguments) == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no option tells it; say --workload decoder or --workload radio"),
        (["--seed", "3"], "no installed workload alone takes --seed; say"),
        (["--modle", "x"], "no installed workload alone takes --modle"),
        (["--model", "x", "--grid=3"], r"\(--model is of decoder, --grid is of radio\)"),
    ],
)
def test_what_names_none_or_two_is_refused(two: object, arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        chosen_by(arguments)


def test_a_workload_that_cannot_be_imported(
    two: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(group: str, name: str) -> ModuleType:
        if name == "decoder":
            raise FoundryError("workload 'decoder' needs tokenizers")
        return two[name]

    monkeypatch.setattr(workload, "installed", installed)
    assert chosen_by(["--grid", "3"]) == "radio"
    with pytest.raises(FoundryError, match="needs tokenizers"):
        chosen_by(["--model", "x"])


def test_the_workloads_here_are_told_apart() -> None:
    assert chosen_by(["--model", "smollm2"]) == "parse"
    assert chosen_by(["--grid", "64x32"]) == "otfs"


def test_a_file_is_a_workload() -> None:
    both = capture_side.find(str(SAMPLE))
    assert isinstance(both, CaptureWorkload) and both.__name__ == FILE_PREFIX + "workload_sample"
    assert find_run("anything", str(SAMPLE)).Options(2.0).value == 2.0
    request = Request.read(str(SAMPLE), "host", False, ["--width", "4"])
    assert (request.workload, request.settings.width) == ("workload_sample", 4)
    with pytest.raises(UsageError, match="has no key"):
        request.parts()


def test_a_module_is_a_workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "demo_package"
    package.mkdir()
    shutil.copy(SAMPLE, package / "sample.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert Request.read("demo_package.sample", "host", False, []).workload == "demo_package.sample"
    assert len(Request.read("demo_package.sample", "host", False, []).parts()["code"]) == 64


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.py", "none.py: no such file"),
        ("no.such.module", "there is no such module"),
        ("nothing", "no workload 'nothing' is installed"),
        ("json.decoder", "cannot be captured"),
    ],
)
def test_what_is_no_workload_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        capture_side.find(name)


def test_a_bundle_names_no_file_to_import(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text("raise SystemExit('imported')")
    for name in (str(planted), "json.decoder"):
        with pytest.raises(UsageError, match="is installed"):
            find_run(name)


def test_a_file_that_needs_what_is_not_installed(tmp_path: Path) -> None:
    path = tmp_path / "needy.py"
    path.write_text("import no_such_package")
    with pytest.raises(FoundryError, match="needs no_such_package, which is not installed"):
        find_run("x", str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n1 / 0", r"ZeroDivisionError: division by zero \(.*broken.py, line 2\)"),
        ("def f(:", r"SyntaxError: invalid syntax \(broken.py, line 1\)"),
        ("from json import nothing", "ImportError: cannot import name 'nothing'"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(FoundryError, match=f"broken.py' cannot be imported: {message}"):
        find_run("x", str(path))


def test_files_of_one_name_are_two_workloads(tmp_path: Path) -> None:
    text = "class Options: value = {}\ndef run(session, options, json): pass"
    for value in (1, 2):
        path = tmp_path / str(value) / "same.py"
        path.parent.mkdir()
        path.write_text(text.format(value))
        assert find_run("x", str(path)).Options.value == value


def test_options_are_a_dataclass() -> None:
    with pytest.raises(UsageError, match="Path: is no dataclass"):
        options.parse(Path, [])


@dataclass
class Server:
    """A workload that is a server; preparing it takes until `go` is set."""

    Options = Serving = Decoder
    go: threading.Event
    prepared: list[str]

    def run(self, session: object, options: object, json: bool) -> None: ...

    def serve(self, session: object, options: object) -> None: ...

    def prepare_serving(self, bundle: str) -> object:
        assert self.go.wait(20)
        self.prepared.append(bundle)
        raise ImportError(bundle)


def test_a_server_is_prepared_beside_the_opening_of_its_bundle() -> None:
    server = Server(threading.Event(), [])
    with preparing(server, "a.fdy") as prepared:  # type: ignore[arg-type]
        assert not server.prepared
        server.go.set()
        prepared.join()  # what it raised is `serve`'s to say
        assert server.prepared == ["a.fdy"]
    server.go.clear()
    threading.Timer(0.05, server.go.set).start()
    with pytest.raises(KeyError), preparing(server, "b.fdy"):  # type: ignore[arg-type]
        raise KeyError
    # The bundle may be closed now.
    assert server.prepared == ["a.fdy", "b.fdy"]
    with preparing(module(Decoder), "c.fdy") as prepared:  # type: ignore[arg-type]
        prepared.join()
