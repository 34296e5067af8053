"""Power delay profiles: the standard ones, a user's files, and what makes no sense."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from foundryrt.errors import FoundryError, UsageError
from otfs_pipeline.frames import source
from otfs_pipeline.link import profile, reference
from otfs_pipeline.settings import Settings


def test_eva_is_that_of_36_104() -> None:
    eva = profile.find("eva")
    np.testing.assert_allclose(eva.delay * 1e9, [0, 30, 150, 310, 370, 710, 1090, 1730, 2510])
    assert eva.power.sum() == pytest.approx(1)
    decibels = 10 * np.log10(eva.power / eva.power[0])
    np.testing.assert_allclose(decibels, [0, -1.5, -1.4, -3.6, -0.6, -9.1, -7, -12, -16.9])


@pytest.mark.parametrize("gain_model", ["fixed", "rayleigh"])
@pytest.mark.parametrize("name", ["vehicular-a", "eva"])
def test_drawn_channels_have_the_profiles_power(name: str, gain_model: str) -> None:
    rng, paths = np.random.default_rng(1), profile.find(name)
    drawn = [paths.draw(rng, 815.0, gain_model) for _ in range(4000)]
    power = np.mean([np.abs(d.gain) ** 2 for d in drawn], axis=0)
    np.testing.assert_allclose(power, paths.power, rtol=0.1)
    dopplers = np.array([d.doppler for d in drawn])
    assert np.abs(dopplers).max() <= 815
    assert np.std(dopplers) == pytest.approx(815 / np.sqrt(2), rel=0.05)


ROWS = [
    {"delay_ns": 0, "power_db": 0},
    {"delay_ns": 500, "power_db": -3, "doppler_hz": -100},
]


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_user_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"paths.{kind}"
    if kind == "json":
        path.write_text(json.dumps(ROWS))
    else:
        path.write_text("delay_ns,power_db,doppler_hz\n0,0,\n500,-3,-100\n")
    paths = profile.find(str(path))
    np.testing.assert_allclose(paths.delay, [0, 5e-7])
    assert paths.power[0] / paths.power[1] == pytest.approx(10**0.3)
    drawn = paths.draw(np.random.default_rng(2), 300.0, "fixed")
    assert drawn.doppler[1] == -100 and abs(drawn.doppler[0]) <= 300
    link = Settings(grid="256x32", modulation=4)
    paths.check(link)
    frame = source.simulate(link, 30.0, 1, 0, paths)
    got = reference.receive(frame.samples.astype(np.complex128), link)
    assert np.mean(got.bits.ravel() != frame.bits) < 1e-3


@pytest.mark.parametrize(
    "text",
    ["[]", "{", "{}", "[1]", '[{"delay_ns": 1}]', '[{"delay_ns": -1, "power_db": 0}]',
     '[{"delay_ns": 0, "power_db": "x"}]', '[{"delay_ns": 0, "power_db": 0, "doppler_hz": "nan"}]',
     '[{"power_db": 0, "delay_ns": 1' + 400 * "0" + "}]", 100_000 * "["],
    ids=range(10),
)  # fmt: skip
def test_files_that_make_no_sense(tmp_path: Path, text: str) -> None:
    path = tmp_path / "paths.json"
    path.write_text(text)
    with pytest.raises(FoundryError, match=r"paths\.json"):
        profile.find(str(path))


@pytest.mark.parametrize("data", [999 * b"\xff", b'delay_ns,power_db\n"' + 200_000 * b"1" + b'"\n'],
                         ids=["no UTF-8", "a field without end"])  # fmt: skip
def test_text_that_is_no_csv(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "paths.csv"
    path.write_bytes(data)
    with pytest.raises(FoundryError, match=r"paths\.csv") as raised:
        profile.find(str(path))
    assert len(str(raised.value)) < 500 + len(str(path))


@pytest.mark.parametrize("level", [-5000, 5000])
def test_levels_count_beside_one_another(tmp_path: Path, level: int) -> None:
    path = tmp_path / "paths.csv"
    path.write_text(f"delay_ns,power_db\n0,{level}\n500,{level - 10}\n")
    np.testing.assert_allclose(profile.find(str(path)).power, [10 / 11, 1 / 11])


def test_profiles_that_do_not_exist_or_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="vehicular-a, eva, or"):
        profile.find("pedestrian")
    with pytest.raises(UsageError, match="No such file"):
        profile.find(str(tmp_path / "none.csv"))
    with pytest.raises(UsageError, match=r"--delay-spread 2\.51e-06"):
        profile.find("eva").check(Settings(delay_spread=1e-6))
    path = tmp_path / "fast.json"
    path.write_text(json.dumps([{"delay_ns": 0, "power_db": 0, "doppler_hz": 900}]))
    with pytest.raises(UsageError, match="--nu-max 900"):
        profile.find(str(path)).check(Settings())
