"""Graphs inside a program: its memory needs no registering, and none of it is given out twice."""

from __future__ import annotations


def test_a_replay_gives_what_the_program_had(run, tmp_path):
    run("capture_program.py", tmp_path)
    report = run("replay_program.py", tmp_path)
    assert len(report) == 7 and all(report.values()), report
