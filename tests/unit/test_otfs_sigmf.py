"""SigMF recordings against the `sigmf` package, and fields that are refused by their names."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sigmf
from hypothesis import given, settings
from hypothesis import strategies as st
from sigmf.sigmffile import dtype_info

from foundryrt.errors import FoundryError
from otfs_pipeline import run, send
from otfs_pipeline.frames import opening, recording, source, writing
from otfs_pipeline.frames import sigmf as sigmf_metadata
from otfs_pipeline.frames.samples import DATATYPES, decode, width
from otfs_pipeline.settings import Settings
from tests.unit.test_otfs_source import ReferenceSession

LINK = Settings(grid="64x32")


def save(folder: Path, data: bytes, beside: str = "", captures: Any = (), **fields: Any) -> Path:
    """A recording `a`, whose metadata has `core:FIELD` for each of `fields`."""
    name = beside or "a.sigmf-data"
    (folder / name).write_bytes(data)
    whole = {"core:datatype": "cf32_le", "core:version": "1.2.0"}
    whole |= {"core:dataset": beside} if beside else {}
    whole |= {f"core:{name}": value for name, value in fields.items()}
    text = json.dumps({"global": whole, "captures": list(captures), "annotations": []})
    (folder / "a.sigmf-meta").write_text(text)
    return folder / "a.sigmf-meta"


def opened(path: Path, datatype: str = "") -> recording.Recording:
    return opening.open_recording(str(path), "", datatype, LINK)


def samples(path: Path) -> list[np.ndarray]:
    return [frame.samples for frame in opened(path).frames(LINK)]


@settings(max_examples=60)
@given(
    datatype=st.sampled_from(sorted(DATATYPES)),
    lengths=st.lists(st.integers(0, 5000), min_size=1, max_size=4),
    headers=st.lists(st.integers(0, 40), min_size=4, max_size=4),
    trailing=st.integers(0, 40),
    offset=st.sampled_from([0, 1, 10**12]),
    seed=st.integers(0, 99),
)
def test_samples_are_those_the_sigmf_package_reads(
    datatype, lengths, headers, trailing, offset, seed
) -> None:
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *lengths])
    captures = [
        {"core:sample_start": int(start), "core:header_bytes": header}
        for start, header in zip(starts[:-1], headers, strict=False)
    ]
    parts = [rng.bytes(headers[i] + n * width(datatype)) for i, n in enumerate(lengths)]
    whole = b"".join(parts) + rng.bytes(trailing)
    with tempfile.TemporaryDirectory() as name:
        path = save(Path(name), whole, "a.bin", captures, datatype=datatype,
                    trailing_bytes=trailing)  # fmt: skip
        # It maps no file without samples, so it is told the file's length only.
        theirs = sigmf.SigMFFile(metadata=path.read_text())
        theirs.data_size_bytes = len(whole)
        expected = []
        for index in range(len(lengths)):
            start, end = theirs.get_capture_byte_boundaries(index)
            raw = np.frombuffer(whole[start:end], dtype_info(datatype)["component_dtype"])
            expected.append(_scaled(raw, datatype))
        for capture in captures:
            capture["core:sample_start"] += offset
        path = save(Path(name), whole, "a.bin", captures, datatype=datatype,
                    trailing_bytes=trailing, offset=offset)  # fmt: skip
        ours = opened(path)
        frames = [frame.samples for frame in ours.frames(LINK)]
    assert len(frames) == ours.count(LINK) == sum(-(-n // LINK.q) for n in lengths)
    assert [c["sample_start"] - offset for c in ours.captures()] == starts[:-1].tolist()
    got = np.concatenate([*frames, np.empty(0, np.complex64)])
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(got, np.concatenate(expected), rtol=1e-5, atol=1e-7)


def _scaled(raw: np.ndarray, datatype: str) -> np.ndarray:
    info = dtype_info(datatype)
    with np.errstate(all="ignore"):
        values = raw.astype("f8")
        if info["is_fixedpoint"]:
            half = 2.0 ** (8 * info["component_size"] - 1)
            values = (values - half * info["is_unsigned"]) / half
        return values.astype("f4").view("c8")


@pytest.mark.parametrize("datatype", ["ci8", "cu8", "ci16_be", "cu16_le", "ci32_le", "cf64_be"])
def test_integers_scale_as_the_package_scales_them(tmp_path: Path, datatype: str) -> None:
    data = np.random.default_rng(3).bytes(100 * width(datatype))
    if datatype.startswith("cf"):
        data = np.arange(200, dtype=DATATYPES[datatype]).tobytes()
    path = save(tmp_path, data, datatype=datatype, captures=[{"core:sample_start": 0}])
    theirs = sigmf.fromfile(str(path)).read_samples()
    np.testing.assert_allclose(samples(path)[0], theirs, rtol=1e-6, atol=1e-7)


def frames_of(count: int) -> bytes:
    sent = source.synthetic(LINK, 25.0, 7, count)
    return b"".join(frame.samples.tobytes() for frame in sent)


def test_every_capture_begins_a_frame_and_is_reported(tmp_path: Path) -> None:
    data = frames_of(3)
    noise, q = bytes(8 * 100), LINK.q
    captures = [
        {"core:sample_start": 100, "core:frequency": 3.5e9},
        {"core:sample_start": 100 + q + 7},
    ]
    path = save(tmp_path, noise + data[: 8 * (q + 7)] + data[8 * q :], captures=captures)
    report = run.run(ReferenceSession(), run.Options(iq=str(path)), json=True)
    assert report["frames"] == 3 and report["skipped"]["wrong_length"] == 1
    assert report["captures"] == [
        {"sample_start": 100, "samples": q + 7, "frequency_hz": 3.5e9},
        {"sample_start": 107 + q, "samples": 2 * q, "frequency_hz": None},
    ]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("num_channels", 2, "core:num_channels 2: the bundle receives 1"),
        ("num_channels", "1", "core:num_channels"),
        ("trailing_bytes", -1, "core:trailing_bytes"),
        ("trailing_bytes", 10**9, "core:trailing_bytes"),
        ("offset", 1.5, "core:offset"),
        ("offset", 5, "core:sample_start 0: it lies before core:offset 5"),
        ("dataset", "../secret", "core:dataset"),
        ("dataset", "a\x1b[2J", "core:dataset"),
        ("dataset", 200 * "\u00e9", "core:dataset"),
        ("dataset", "gone.bin", "gone.bin does not exist"),
        ("datatype", "rf32_le", "real samples"),
        ("datatype", "cf32", "no byte order"),
        ("datatype", "c\x1b[2Jf", r"c\\x1b\[2Jf"),
        ("datatype", 3, "core:datatype"),
        ("version", "2.0.0", "core:version"),
        ("sha512", "0" * 128, "core:sha512"),
        ("sha512", "abc", "core:sha512"),
        ("metadata_only", 1, "core:metadata_only"),
        ("sample_rate", float("nan"), "core:sample_rate"),
        ("sample_rate", 0, "core:sample_rate"),
        ("extensions", [{"name": "x\x1b", "version": "1", "optional": False}], r"x\\x1b"),
        ("extensions", [{"name": "needed", "version": "1"}], "'needed' is not optional"),
        ("extensions", {"needed": "1"}, "core:extensions"),
    ],
)
def test_fields_are_refused_by_name(tmp_path: Path, field: str, value: Any, reason: str) -> None:
    path = save(tmp_path, bytes(800), captures=[{"core:sample_start": 0}], **{field: value})
    with pytest.raises(FoundryError, match=reason) as refusal:
        opened(path)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    ("captures", "reason"),
    [
        ([{}], "capture 0: core:sample_start"),
        ([{"core:sample_start": True}], "core:sample_start"),
        ([{"core:sample_start": 9}, {"core:sample_start": 3}], "sorted"),
        ([{"core:sample_start": 101}], "ends after the dataset"),
        ([{"core:sample_start": 0}, {"core:sample_start": 200}], "ends after the dataset"),
        ([{"core:sample_start": 0, "core:header_bytes": 801}], "core:header_bytes"),
        ([{"core:sample_start": 0, "core:frequency": "x"}], "core:frequency"),
        ([{"core:sample_start": 0, "core:sample_rate": 5}], "samples a second"),
        ([3], "no SigMF"),
    ],
)
def test_captures_are_refused_by_name(tmp_path: Path, captures: Any, reason: str) -> None:
    with pytest.raises(FoundryError, match=reason):
        opened(save(tmp_path, bytes(800), captures=captures))


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, bytes(800))
    path.write_text(path.read_text().replace('"core:version"', '"core:datatype": "x", "core:v"'))
    with pytest.raises(FoundryError, match="core:datatype is given twice"):
        opened(path)


def test_a_digest_that_is_right_is_taken(tmp_path: Path) -> None:
    data = bytes(8 * LINK.q)
    assert len(samples(save(tmp_path, data, sha512=hashlib.sha512(data).hexdigest()))) == 1


def test_metadata_alone_has_no_samples(tmp_path: Path) -> None:
    path = save(tmp_path, b"", metadata_only=True)
    assert samples(path) == []
    (tmp_path / "a.sigmf-data").unlink()
    with pytest.raises(FoundryError, match="core:metadata_only"):
        opened(path)


def test_metadata_of_another_dataset_is_refused(tmp_path: Path) -> None:
    save(tmp_path, bytes(800), "a.bin")
    (tmp_path / "a.raw").write_bytes(bytes(800))
    with pytest.raises(FoundryError, match=r"core:dataset is a\.bin, not a\.raw"):
        opened(tmp_path / "a.raw")
    assert len(samples(tmp_path / "a.bin")) == 1


@pytest.mark.parametrize("dataset", ["", "a.bin"])
def test_archives_are_read_in_place(tmp_path: Path, dataset: str) -> None:
    data = b"head" * bool(dataset) + frames_of(2)
    capture = {"core:sample_start": 0} | ({"core:header_bytes": 4} if dataset else {})
    digest = hashlib.sha512(data).hexdigest()
    path = save(tmp_path, data, dataset, [capture], sha512=digest)
    archive = tmp_path / "a.sigmf"
    sigmf.fromfile(str(path)).archive(str(archive))
    theirs = sigmf.fromfile(str(archive)).read_samples()
    np.testing.assert_array_equal(np.concatenate(samples(archive)), theirs)
    damaged = bytearray(archive.read_bytes())
    damaged[damaged.index(data[:64]) + 5] ^= 1
    archive.write_bytes(damaged)
    with pytest.raises(FoundryError, match="core:sha512"):
        opened(archive)


def test_archives_that_cannot_be_read(tmp_path: Path) -> None:
    archive = tmp_path / "a.sigmf"

    def members(*names: str) -> None:
        with tarfile.open(archive, "w") as tar:
            for name in names:
                text = (
                    b'{"global": {"core:datatype": "cf32_le"}}' if "meta" in name else b"12345678"
                )
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text))

    for names, reason in (
        (["a/a.sigmf-data"], "0 recordings"),
        (["a/a.sigmf-meta"], "a/a.sigmf-data is not in the archive"),
        (["a/a.sigmf-meta", "b/a.sigmf-data"], "is not in the archive"),
        (["a/a.sigmf-meta", "a/b.sigmf-meta"], "2 recordings"),
        (["a.sigmf-meta", "a.sigmf-data", "a.sigmf-data"], "comes twice"),
    ):
        members(*names)
        with pytest.raises(FoundryError, match=reason):
            opened(archive)
    members("a.sigmf-meta", "a.sigmf-data")
    archive.write_bytes(archive.read_bytes()[: 3 * 512 + 4])
    with pytest.raises(FoundryError, match="archive"):
        opened(archive)
    archive.write_bytes(b"no tar")
    with pytest.raises(FoundryError, match="no tar file"):
        opened(archive)
    for name, reason in (("a.sigmf.gz", "decompress"), ("a.sigmf-collection", "a collection")):
        with pytest.raises(FoundryError, match=reason):
            opened(tmp_path / name)


@settings(max_examples=150)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=4,
    ),
    st.sampled_from(["num_channels", "offset", "trailing_bytes", "dataset", "datatype",
                     "extensions", "sha512", "metadata_only", "sample_rate", "version"]),
    st.sampled_from(["sample_start", "header_bytes", "frequency"]),
)  # fmt: skip
def test_any_value_is_taken_or_refused_in_one_line(value, field, of_capture) -> None:
    with tempfile.TemporaryDirectory() as name:
        capture = {"core:sample_start": 0}
        for given_to in ({field: value}, {"captures": [capture | {f"core:{of_capture}": value}]}):
            path = save(Path(name), bytes(800), **given_to)
            try:
                samples(path)
            except FoundryError as error:
                assert str(error).isprintable()


def test_a_sender_plays_what_the_metadata_says(tmp_path: Path) -> None:
    data = b"\0" * 12 + frames_of(2)
    path = save(tmp_path, data, "a.bin", [{"core:sample_start": 0, "core:header_bytes": 12}])
    pieces = list(send._recorded(str(path), LINK))
    assert b"".join(piece for _, piece in pieces) == data[12:]
    bytes_ = np.random.default_rng(1).bytes(4 * LINK.q)
    played = list(send._recorded(str(save(tmp_path, bytes_, datatype="cu16_be")), LINK))
    assert played[0][0].datatype == "cf32_le"
    np.testing.assert_array_equal(decode(played[0][1], "cf32_le"), decode(bytes_, "cu16_be"))


def test_a_file_that_is_cut_short_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = list(source.synthetic(LINK, 25.0, 7, 3))
    writing.write_recording(str(tmp_path / "link"), frames, LINK, 7)
    data = tmp_path / "link.sigmf-data"
    opened = opening.open_recording(str(data), "", "", LINK)
    assert opened.count(LINK) == 3 and not capsys.readouterr().err
    data.write_bytes(data.read_bytes()[: 8 * LINK.q + 3])
    opening.open_recording(str(data), "", "", LINK)
    said = " ".join(capsys.readouterr().err.split())
    assert f"2 of 3 frames that metadata {data.with_suffix('.sigmf-meta')} names begin" in said
    data.write_bytes(data.read_bytes() + bytes(16 * LINK.q))
    opening.open_recording(str(data), "", "", LINK)
    assert "it ends 3 bytes into a sample of 8" in " ".join(capsys.readouterr().err.split())


def test_metadata_that_is_no_text_is_not_shown_whole() -> None:
    with pytest.raises(FoundryError, match=r"no SigMF: UnicodeDecodeError: .utf-8.") as raised:
        sigmf_metadata.parse(1_000_000 * b"\xff", "x")
    assert len(str(raised.value)) < 300


def test_captures_are_retuned_by_the_last_frequency_that_was_heard(tmp_path: Path) -> None:
    # Of 2 samples each; the second says no frequency, the fourth has no sample.
    captures = [
        {"core:sample_start": 0, "core:frequency": 1e9},
        {"core:sample_start": 2},
        {"core:sample_start": 4, "core:frequency": 1e9},
        {"core:sample_start": 6, "core:frequency": 2e9},
        {"core:sample_start": 6, "core:frequency": 3e9},
        {"core:sample_start": 8, "core:frequency": 3e9},
    ]
    found = opened(save(tmp_path, bytes(10 * 8), captures=captures))
    assert [segment.bytes // 8 for segment in found.segments] == [2, 2, 2, 0, 2, 2]
    assert [piece.retuned for piece in found.waveform(LINK)] == [False, False, False, True, False]
