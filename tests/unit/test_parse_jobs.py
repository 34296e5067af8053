"""Lines of prompts that cannot be read are named, and stand among those that can."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foundryrt.errors import UsageError
from parse_runtime.commands import jobs
from parse_runtime.commands.jobs import Defaults, Job, Refused, read
from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.rules import BundleRules, Rules

PROMPTS: Any = SimpleNamespace(
    target=SimpleNamespace(chat=SimpleNamespace(template="{{ messages[0].content }}")),
    request=lambda prompt, most, sampling, rules: SimpleNamespace(
        prompt=prompt, most=most, sampling=sampling, rules=rules, check=lambda max_len: None
    ),
)
DEFAULTS = Defaults(8, Sampling(), [], BundleRules(Rules(), Rules()))


def lines(folder: Path, content: bytes, defaults: Defaults = DEFAULTS) -> list[Job | Refused]:
    (folder / "lines.jsonl").write_bytes(content)
    return read(str(folder / "lines.jsonl"), PROMPTS, defaults, 64)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{not json", "no JSON"),
        (b'{"prompt": "x"} {"prompt": "y"}', "no JSON: Extra data"),
        (b'"x"', "Expected `object`, got `str`"),
        (b'{"prompt": "x", "stride": 1}', "stride"),
        (b'{"prompt": "\xff"}', "utf-8"),
        (b'{"parse": {"x": ' + b"[" * 9999 + b"]" * 9999 + b"}}", "recursion"),
        (b'{"prompt": "x", "prompt": "y"}', "'prompt' is given twice"),
        (b'{"prompt": "x", "parse": {"stride": 1, "stride": 2}}', "'stride' is given twice"),
        (b'{"prompt": "x", "temperature": NaN}', "temperature nan"),
        (b'{"prompt": "x", "temperature": 1e999}', "temperature inf"),
        (b'{"prompt": "x", "top_p": 0}', "top-p"),
        (b'{"prompt": "x", "seed": -1}', "seed -1"),
        (b'{"prompt": "x", "max_new_tokens": "4"}', "max_new_tokens"),
        (b'{"prompt": "", "messages": []}', "give either a prompt or messages"),
        (b'{"messages": [{"role": "user"}]}', "content"),
        (b'{"prompt": "x", "stop": [1]}', "stop"),
        (b'{"prompt": "x", "parse": {"threshold": 2}}', "probability"),
        (b'{"prompt": "' + b"x" * 200 + b'"}', "longer than 100 bytes"),
    ],
)
def test_a_bad_line_is_named_and_stands_among_good_ones(
    tmp_path: Path, line: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "longer" in message:
        monkeypatch.setattr(jobs, "_LONGEST", 100)
    first, bad, last = lines(tmp_path, b'{"prompt": "a"}\n\n' + line + b'\r\n{"prompt": "z"}')
    assert isinstance(first, Job) and first.request.prompt == "a"
    assert isinstance(last, Job) and last.request.prompt == "z"
    assert isinstance(bad, Refused) and message in str(bad.error)
    assert "lines.jsonl line 3: " in str(bad.error)


def test_a_line_says_what_differs_from_the_options(tmp_path: Path) -> None:
    (job,) = lines(
        tmp_path,
        b'\xef\xbb\xbf{"prompt": "\xc3\xa9", "max_new_tokens": 3, "seed": 5, "stop": "s", '
        b'"parse": {"stride": 2}}',
    )
    assert isinstance(job, Job) and job.stops == ("s",)
    request: Any = job.request
    assert (request.prompt, request.most, request.sampling) == ("\xe9", 3, Sampling(seed=5))
    assert request.rules == Rules(stride=2)


def test_a_line_may_leave_the_calibration_aside(tmp_path: Path) -> None:
    fitted = Rules(judge_prompt="", threshold=0.25, max_rounds=0)
    defaults = replace(DEFAULTS, rules=BundleRules(Rules(stride=2), fitted))
    for values, expected in (
        (b'{"calibrated": false, "resume_tokens": 3}',
         Rules(stride=2, calibrated=False, resume_tokens=3)),
        (b'{"calibrated": true}', fitted),
        (b"{}", fitted),
    ):  # fmt: skip
        (job,) = lines(tmp_path, b'{"prompt": "x", "parse": ' + values + b"}", defaults)
        assert isinstance(job, Job) and job.request.rules == expected


def test_no_lines_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no prompts"):
        lines(tmp_path, b"\n\n")
    for place, message in ((tmp_path / "missing", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError, match=message):
            read(str(place), PROMPTS, DEFAULTS, 64)
