"""Workflows and pages name make targets, files and Python versions that exist."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/**/*.md")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
MAKE = re.compile(r"(?:^|[`;&] *)make +([a-z][\w-]*)", re.MULTILINE)


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in load(workflow)["jobs"].values():
        yield from job["steps"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_exists(workflow: Path) -> None:
    commands = [step["run"] for step in steps(workflow) if "run" in step]
    assert commands
    for command in commands:
        assert set(MAKE.findall(command)) <= TARGETS
        for word in command.split():
            if word.startswith((".ci/", "tests/", "artifacts/", "benchmarks/")):
                assert (ROOT / word).exists(), word


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read(workflow: Path) -> None:
    assert load(workflow)["permissions"] == {"contents": "read"}
    for step in steps(workflow):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_the_tests_run_on_every_python_that_the_package_claims() -> None:
    claimed = {
        line.rpartition(" ")[2]
        for line in PROJECT["classifiers"]
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", line)
    }
    for workflow, job in (("test", "test"), ("wheels", "install")):
        jobs = load(ROOT / ".github" / "workflows" / f"{workflow}.yml")["jobs"]
        assert set(jobs[job]["strategy"]["matrix"]["python"]) == claimed
    low, high = (f"3.{minor}" for minor in (11, 14))
    assert PROJECT["requires-python"] == f">={low},<{high}"
    assert claimed == {"3.11", "3.12", "3.13"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_names_targets_and_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert set(MAKE.findall(text)) <= TARGETS
    for link in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in link and not link.startswith("mailto:"):
            assert (page.parent / link).exists(), link


def test_issue_templates_are_forms() -> None:
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        if form.name != "config.yml":
            body = load(form)["body"]
            assert {field["type"] for field in body} <= {"markdown", "textarea"}
            assert all(field["attributes"] for field in body)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "api").glob("*.md")), ids=lambda p: p.name)
def test_the_reference_names_what_exists(page: Path) -> None:
    """`::: package.module` or `::: package.module.Class`."""
    names = re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert names
    for name in names:
        parent, _, member = name.rpartition(".")
        module, package = (ROOT / parent.replace(".", "/") / end for end in ("", "__init__.py"))
        source = package if package.is_file() else module.with_suffix(".py")
        whole = ROOT / (name.replace(".", "/") + ".py")
        assert whole.is_file() or re.search(rf"\b{member}\b", source.read_text(encoding="utf-8")), (
            name
        )


NAMED_FILE = re.compile(r"`((?:tests/)?(?:\w+/)+test_\w+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("page", ["docs/compared.md", "tests/README.md"])
def test_tests_that_a_page_names_exist(page: str) -> None:
    named = NAMED_FILE.findall((ROOT / page).read_text(encoding="utf-8"))
    assert len(named) > 30
    for file, test in named:
        path = ROOT / file if file.startswith("tests/") else ROOT / "tests" / file
        assert path.is_file(), file
        assert not test or f"\ndef {test}(" in path.read_text(encoding="utf-8"), f"{file}::{test}"
