"""`foundryc capture SCRIPT.py`: scripts that mark what to keep."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import foundryc
from foundryc import Recorder, marks
from foundryc.cache.request import Request
from foundryc.script import Script
from foundryrt import FoundryError, Session, UsageError
from foundryrt.bundle.reader import Bundle
from foundryrt.workload import find_run

sys.path.insert(0, str(Path(__file__).parent))
from example_runs import EXAMPLES


def capture(folder: Path, text: str, *arguments: str) -> Path:
    """The bundle of a script, captured in this process."""
    path = folder / "demo.py"
    path.write_text(text)
    script = Script(path, arguments)
    with Recorder("host", workload="script", settings={"script": "demo"}) as recorder:
        script.record(recorder, script.settings)
        recorder.save(folder / "demo.fdy")
    return folder / "demo.fdy"


def test_the_example(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py"])
    runpy.run_path(str(EXAMPLES / "script.py"))
    alone = capsys.readouterr().out
    assert alone.startswith("after 50 values: ")
    bundle = tmp_path / "wave.fdy"
    words = ["capture", EXAMPLES / "script.py", "-o", bundle, "--target", "host", "--json"]
    command = [sys.executable, "-c", "from foundryc.cli import main; main()", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=EXAMPLES.parent)
    # The script ran as it does by itself, beside the results.
    assert done.returncode == 0 and alone in done.stderr
    assert json.loads(done.stdout)["workload"] == "script"
    with Session.open(bundle) as session:
        assert not session.read("hidden").any()
        step = session.graph("step", streams=4)
        for value in np.sin(np.linspace(0, 20, 50, dtype=np.float32)):
            step.write("value", np.full((4, 1), value))
            step.launch()
        assert np.allclose(step.read("next"), -0.1, atol=0.05)
        workload = find_run(session.workload)
        found = workload.run(session, workload.Options(), json=True)
        assert capsys.readouterr().out == ""
        workload.run(session, workload.Options(), json=False)
        assert "step(streams=4)" in capsys.readouterr().out
    (graph,) = found["graphs"]
    assert graph["key"] == {"streams": 4}
    assert [(t["name"], t["role"], t["shape"]) for t in graph["tensors"]] == [
        ("value", "input", [4, 1]),
        ("next", "output", [4, 1]),
    ]
    assert [t["name"] for t in found["shared"]] == ["hidden"]


def test_a_script_finds_what_it_finds_by_itself(tmp_path: Path) -> None:
    """Its arguments, the modules beside it, and itself as `__main__`."""
    (tmp_path / "beside_it.py").write_text("SIZE = 3\n")
    before = sys.argv, sys.path[:], sys.modules["__main__"]
    text = """
import sys, pickle, torch, foundryc, beside_it
class Thing: pass
assert __name__ == "__main__" and sys.argv[1:] == ["--json", "7"] and __file__ == sys.argv[0]
assert type(pickle.loads(pickle.dumps(Thing()))) is Thing
x = foundryc.keep("x", torch.full((beside_it.SIZE,), float(sys.argv[2])))
with foundryc.record("g") as graph:
    graph.output("y", x * 2)
sys.exit(0)
"""
    with Session.open(capture(tmp_path, text, "--json", "7")) as session:
        session.graph("g").launch()
        assert session.graph("g").read("y").tolist() == [14.0] * 3
        assert session.settings == {"script": "demo"}
    assert (sys.argv, sys.path, sys.modules["__main__"]) == before and marks.active is None


def test_a_module_s_weights_stay_in_the_files_that_a_script_names(tmp_path: Path) -> None:
    text = """
import sys, torch, foundryc
from safetensors.torch import load_file, save_file
net = torch.nn.Linear(3, 2)
save_file(net.state_dict(), sys.argv[1])
foundryc.keep("net", net, files=[sys.argv[1]])
x = torch.ones(3)
with torch.no_grad(), foundryc.record("g") as graph:
    graph.output("y", net(x))
"""
    file = tmp_path / "net.safetensors"
    path = capture(tmp_path, text, str(file))
    with Bundle.open(path) as bundle:
        assert len(bundle.manifest.weights.recipes) == 2
    with Session.open(path) as session:
        session.graph("g").launch()
        weight, bias = session.read("net.weight"), session.read("net.bias")
        assert np.allclose(session.graph("g").read("y"), weight.sum(1) + bias)
        assert weight.any()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("pass", UsageError, "recorded nothing; mark what to keep"),
        ("raise SystemExit(3)", FoundryError, "exited with 3; no bundle is written"),
        ("import sys; sys.exit('no data')", FoundryError, "exited with no data"),
        ("x = {}\nx['key']", FoundryError, "failed with KeyError; no bundle"),
        (
            "import foundryc; foundryc.keep('x', 3)",
            UsageError,
            "x: is a int; keep tensors and modules",
        ),
        ("x = (", FoundryError, "failed with SyntaxError; no bundle"),
        (
            "import torch, foundryc\nwith foundryc.record('g'): torch.randn(3)",
            FoundryError,
            r"demo\.py:2 cannot be recorded: it draws random numbers",
        ),
    ],
)
def test_a_script_that_fails(
    tmp_path: Path, capsys, text: str, error: type[FoundryError], message: str
) -> None:
    with pytest.raises(error, match=message):
        capture(tmp_path, text)
    said = capsys.readouterr().err
    if "KeyError" in message:
        assert "demo.py" in said and ", line 2" in said and "foundryc" not in said
    assert marks.active is None and not (tmp_path / "demo.fdy").exists()


def test_which_words_are_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.py").touch()
    request = Request.read(None, "host", False, ["demo.py", "--epochs", "3"])
    assert (request.workload, request.settings.script) == ("script", "demo")
    with pytest.raises(UsageError, match="has no key; capture it without a cache"):
        request.parts()
    with pytest.raises(UsageError, match=r"other\.py: no such file"):
        Request.read(None, "host", False, ["other.py"])
    for name, compiled, option in (("otfs", False, "--workload"), (None, True, "--compile")):
        with pytest.raises(UsageError, match=f"a script is captured without {option}"):
            Request.read(name, "host", False, ["demo.py"], compiled)


def test_marks_do_nothing_outside_a_capture() -> None:
    value = object()
    assert foundryc.keep("x", value) is value  # type: ignore[type-var]
    with foundryc.record("g", name="v") as graph:
        graph.input("x", value)
        graph.output("y", value)
    assert foundryc.record("g") is foundryc.record("h", batch=8)


@pytest.mark.parametrize(
    ("block", "key", "told"),
    [
        ('g.output("z", x + 1)', "", "output 'z' float32 .*, where .* has none"),
        ('g.output("y", x[:2] + 1)', "", r"output 'y' float32 \[2\], where .* has float32 \[3\]"),
        ('g.output("y", x[:2] + 1)', ", batch=8", ""),
        ('g.output("y", x + 1)', "", ""),
    ],
)
def test_a_name_that_comes_again_is_of_the_same_block(
    block: str, key: str, told: str, tmp_path: Path
) -> None:
    text = f"""
import foundryc, torch
x = torch.zeros(3)
with foundryc.record("f") as g:
    g.input("x", x)
    g.output("y", x + 1)
with foundryc.record("f"{key}) as g:
    {block}
"""
    if not told:
        capture(tmp_path, text)
        return
    with pytest.raises(UsageError, match=told):
        capture(tmp_path, text)


RECORDS = """
import foundryc, os, subprocess, sys, torch
x = torch.zeros(2, 3)
with foundryc.record("g") as g:
    g.input("x", x)
    g.output("y", x + 1)
"""

WORKLOAD = """
from dataclasses import dataclass
@dataclass
class Settings: pass
def record(recorder, settings): pass
"""


def foundryc_capture(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from foundryc.cli import main; main()", "capture"]
    return subprocess.run(
        [*command, "--target", "host", *words], capture_output=True, text=True, cwd=folder
    )


def test_a_bundle_never_replaces_its_script(tmp_path: Path) -> None:
    (tmp_path / "demo.py").write_text(RECORDS)
    (tmp_path / "work.py").write_text(WORKLOAD)
    for words in (["demo.py", "-o", "demo.py"], ["--workload", "work.py", "-o", "./work.py"]):
        done = foundryc_capture(tmp_path, *words)
        assert done.returncode == 2 and "is read, and would be replaced" in done.stderr
    assert (tmp_path / "demo.py").read_text() == RECORDS


def test_a_run_never_replaces_its_workload(tmp_path: Path) -> None:
    text = """
from dataclasses import dataclass
from foundryrt.options import option
@dataclass
class Options:
    out: str = option("", "Results.", writes=True)
def run(session, options, json): open(options.out, "w")
"""
    (tmp_path / "work.py").write_text(text)
    bundle = capture(tmp_path, RECORDS)
    words = ["run", str(bundle), "--workload", "work.py", "--out", "work.py"]
    command = [sys.executable, "-c", "from foundryrt.start import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "is read, and would be replaced" in done.stderr
    assert (tmp_path / "work.py").read_text() == text


def test_the_bundle_is_where_it_was_asked_for_whatever_the_script_does(tmp_path: Path) -> None:
    text = (
        RECORDS
        + """
os.mkdir("elsewhere")
os.chdir("elsewhere")
subprocess.run(["echo", "of a child"])
os.write(1, b"of a library")
for _ in range(2):
    if os.fork() == 0:
        break  # the child runs to the script's end, too
else:
    print([os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)])
"""
    )
    (tmp_path / "demo.py").write_text(text)
    done = foundryc_capture(tmp_path, "demo.py", "-o", "demo.fdy", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["bundle"] == "demo.fdy"
    for printed in ("of a child", "of a library", "[0, 0]"):
        assert printed in done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*.fdy")) == ["demo.fdy"]
    assert not [*(tmp_path / "elsewhere").iterdir()]


def test_forked_children_end_as_they_would(tmp_path: Path) -> None:
    text = (
        RECORDS
        + """
for code in (0, 3, "a text"):
    if (child := os.fork()) == 0:
        sys.exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=open("status", "a"))
"""
    )
    (tmp_path / "demo.py").write_text(text)
    done = foundryc_capture(tmp_path, "demo.py", "-o", "demo.fdy")
    assert done.returncode == 0 and done.stdout.count("demo.fdy") == 1
    codes = (tmp_path / "status").read_text().split()
    assert codes == ["0", "3", "1"]


@pytest.mark.parametrize("how", ["os._exit(0)", "Thread(target=os._exit, args=(0,)).start()"])
def test_an_exit_that_leaves_no_time_for_a_bundle_is_an_error(tmp_path: Path, how: str) -> None:
    text = "from multiprocessing import get_context\nfrom threading import Event, Thread\n"
    text += "if (child := os.fork()) == 0: os._exit(3)\nprint(os.waitpid(child, 0)[1] >> 8)\n"
    text += "other = get_context('spawn').Process(target=os._exit, args=(7,))\nother.start()\n"
    text += f"other.join()\nprint(other.exitcode)\n{how}\nEvent().wait()"
    (tmp_path / "demo.py").write_text(
        RECORDS + "if __name__ == '__main__':\n    " + text.replace("\n", "\n    ")
    )
    done = foundryc_capture(tmp_path, "demo.py", "-o", "demo.fdy")
    assert done.returncode == 1 and "3\n7\n" in done.stderr
    assert "os._exit(0) was called, and no bundle is written" in done.stderr
    assert not (tmp_path / "demo.fdy").exists()


def test_a_link_that_a_bundle_is_written_to_stays_a_link(tmp_path: Path) -> None:
    link = tmp_path / "demo.fdy"
    (tmp_path / "disk").mkdir()
    link.symlink_to("disk/demo.fdy")
    capture(tmp_path, RECORDS)
    assert link.is_symlink()
    Bundle.open(tmp_path / "disk" / "demo.fdy").close()


@pytest.mark.parametrize(
    "failure", ["import asyncio; raise asyncio.CancelledError", "raise GeneratorExit", "1 / 0"]
)
def test_whatever_a_script_raises_is_shown_without_frames_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], failure: str
) -> None:
    with pytest.raises(FoundryError, match=r"demo.py: failed with"):
        capture(tmp_path, RECORDS + failure)
    shown = capsys.readouterr().err
    assert "demo.py" in shown and "foundryc/script.py" not in shown and "contextlib" not in shown


def test_what_a_mark_refuses_is_said_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"demo.py:8: a: is a int; keep tensors"):
        capture(tmp_path, RECORDS + "\nfoundryc.keep('a', 3)")
    with pytest.raises(UsageError, match=r"demo.py:8: a: only a module's tensors are found"):
        capture(tmp_path, RECORDS + "\nfoundryc.keep('a', x, files=['f.safetensors'])")


def test_a_module_of_a_package_is_captured_as_python_m_runs_it(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "part").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "part" / "__init__.py").touch()
    (package / "helper.py").write_text("def check(n): assert n == '__main__'")
    text = "from {}helper import check; check(__name__)" + RECORDS + "print(sys.argv[1:])"
    (package / "train.py").write_text(text.format("."))
    (package / "part" / "__main__.py").write_text(text.format(".."))
    for name, path in (("package.train", "a.fdy"), ("package.part", "b.fdy")):
        done = foundryc_capture(tmp_path, "-o", path, "-m", name, "word")
        assert done.returncode == 0 and "['word']" in done.stderr
        with Bundle.open(tmp_path / path) as bundle:
            assert bundle.manifest.workload.settings == {"script": name}
    for words in (["package.none"], ["package"], ["none"], []):
        done = foundryc_capture(tmp_path, "-o", "c.fdy", "-m", *words)
        assert done.returncode == 2 and done.stderr.startswith("error: -m")
    assert not (tmp_path / "c.fdy").exists()
