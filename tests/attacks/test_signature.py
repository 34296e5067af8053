"""A trusted open gives the bundle that was signed, or refuses it with a named error."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundryc.sign import create_key, sign
from foundryrt.bundle import errors
from foundryrt.bundle.reader import Bundle
from foundryrt.errors import FoundryError, UsageError
from foundryrt.host.weights import load
from foundryrt.session import Session
from foundryrt.trust import NotSigned, SignatureWrong, SignerNotTrusted, Trust, TrustUnusable
from foundryrt.weights import WeightsChanged
from tests.attacks.samples import Parts, parts, with_manifest
from tests.attacks.test_mutation import reseal

KEYS = Path(tempfile.mkdtemp(prefix="foundry-keys-"))
ALICE, BOB = KEYS / "alice.key", KEYS / "bob.key"
for _key in (ALICE, BOB):
    create_key(_key)
TRUST_ALICE = Trust.load([ALICE.with_suffix(".pem")])
TRUST_BOB = Trust.load([BOB.with_suffix(".pem")])


def signed(sample: Parts, *keys: Path) -> bytes:
    path = sample.write(KEYS / "sample.fdy")
    for key in keys:
        sign(path, key)
    return path.read_bytes()


UNSIGNED = parts().assemble()
GOOD = signed(parts(), ALICE)
OTHER = signed(with_manifest(provenance={"note": "another"}), ALICE)
TABLE = int.from_bytes(GOOD[8:16], "little")
ENTRY = len(GOOD) - 128
SIGNATURE = int.from_bytes(GOOD[ENTRY + 8 : ENTRY + 16], "little")


def read(path: Path, data: bytes, trust: Trust = TRUST_ALICE) -> bytes:
    """The digest of the bundle in `data`, all of it checked."""
    path.write_bytes(data)
    with Bundle.open(path, trust) as bundle:
        bundle.verify()
        return bundle.digest


DIGEST = read(KEYS / "good.fdy", GOOD)


def same_or_refused(path: Path, data: bytes) -> bool:
    """Whether it was accepted; nothing but a FoundryError may come out, no other bundle either."""
    try:
        assert read(path, data) == DIGEST
    except FoundryError:
        return False
    return True


def flipped(place: int, change: int = 1) -> bytearray:
    data = bytearray(GOOD)
    data[place] ^= change
    return data


def test_signing_keeps_contents_and_identity(tmp_path: Path) -> None:
    path = tmp_path / "a.fdy"
    path.write_bytes(UNSIGNED)
    path.chmod(0o640)
    with Bundle.open(path) as before:
        digest, manifest = before.digest, before.manifest
    sign(path, ALICE)
    with Bundle.open(path, TRUST_ALICE) as after:
        after.verify()
        assert (after.digest, after.manifest) == (digest, manifest)
    assert os.listdir(tmp_path) == ["a.fdy"]
    assert path.stat().st_mode & 0o777 == 0o640


def test_every_byte_of_header_table_and_signature(tmp_path: Path) -> None:
    path = tmp_path / "a.fdy"
    places = [*range(64), *range(SIGNATURE, SIGNATURE + 96), *range(TABLE, len(GOOD))]
    accepted = [place for place in places if same_or_refused(path, bytes(flipped(place)))]
    assert accepted == []


def test_every_byte_of_table_and_signature_with_digests_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.fdy"
    places = [*range(SIGNATURE, SIGNATURE + 96), *range(TABLE, len(GOOD))]
    accepted = [place for place in places if same_or_refused(path, reseal(flipped(place)))]
    # A damaged digest field is simply made right again by resealing: the very same file.
    assert all(p >= TABLE + 32 and (p - TABLE) % 128 in range(32, 64) for p in accepted)


def test_changed_contents_with_digests_made_anew(tmp_path: Path) -> None:
    with Bundle.open(KEYS / "good.fdy") as bundle:
        sections = bundle.sections[:-1]
    for section in sections:
        data = reseal(flipped(section.offset + section.stored // 2))
        with pytest.raises(SignatureWrong):
            read(tmp_path / "a.fdy", data)


def test_signature_of_another_bundle(tmp_path: Path) -> None:
    data = bytearray(GOOD)
    entry = len(OTHER) - 128
    start = int.from_bytes(OTHER[entry + 8 : entry + 16], "little")
    data[SIGNATURE : SIGNATURE + 96] = OTHER[start : start + 96]
    with pytest.raises(SignatureWrong):
        read(tmp_path / "a.fdy", reseal(data))


def test_signature_stripped(tmp_path: Path) -> None:
    with pytest.raises(NotSigned, match=rf"^{tmp_path}/a.fdy: the bundle is not signed"):
        read(tmp_path / "a.fdy", UNSIGNED)


def test_signature_hidden_behind_another_kind(tmp_path: Path) -> None:
    """As an optional section of unknown kind the signatures are skipped, so they count as none."""
    data = bytearray(GOOD)
    data[ENTRY : ENTRY + 2] = (99).to_bytes(2, "little")
    with pytest.raises(NotSigned):
        read(tmp_path / "a.fdy", reseal(data))


def test_unknown_signer(tmp_path: Path) -> None:
    with pytest.raises(SignerNotTrusted):
        read(tmp_path / "a.fdy", GOOD, TRUST_BOB)


def test_signer_forged_by_name(tmp_path: Path) -> None:
    """Bob's signature under Alice's key."""
    data = bytearray(signed(parts(), BOB))
    data[SIGNATURE : SIGNATURE + 32] = GOOD[SIGNATURE : SIGNATURE + 32]
    with pytest.raises(SignatureWrong):
        read(tmp_path / "a.fdy", reseal(data))


def test_sections_reordered(tmp_path: Path) -> None:
    data = bytearray(GOOD)
    data[TABLE : TABLE + 128], data[TABLE + 128 : TABLE + 256] = (
        GOOD[TABLE + 128 : TABLE + 256], GOOD[TABLE : TABLE + 128],
    )  # fmt: skip
    with pytest.raises(errors.BundleError):
        read(tmp_path / "a.fdy", reseal(data))


def test_trailing_data_and_cuts(tmp_path: Path) -> None:
    path = tmp_path / "a.fdy"
    assert not same_or_refused(path, GOOD + b"x")
    assert not same_or_refused(path, GOOD + bytes(4096))
    for length in (0, 3, 63, 4096, SIGNATURE, SIGNATURE + 50, TABLE, len(GOOD) - 1):
        assert not same_or_refused(path, GOOD[:length])
    without_entry = bytearray(GOOD[:ENTRY])
    assert not same_or_refused(path, reseal(without_entry))


def test_two_keys_and_rotation(tmp_path: Path) -> None:
    both = signed(parts(), ALICE, BOB)
    path = tmp_path / "a.fdy"
    assert read(path, both, TRUST_ALICE) == read(path, both, TRUST_BOB) == DIGEST
    sign(path, ALICE)  # the same key again replaces its own signature
    assert path.read_bytes() == both
    # Trust in both: one of the two entries damaged is refused, not passed over.
    data = bytearray(both)
    entry = len(both) - 128
    start = int.from_bytes(both[entry + 8 : entry + 16], "little")
    data[start + 40] ^= 1
    with pytest.raises(SignatureWrong):
        read(path, reseal(data), Trust(TRUST_ALICE.keys | TRUST_BOB.keys))


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    st.booleans(),
)
def test_mutations(tmp_path: Path, changes: list[tuple[int, int]], again: bool) -> None:
    data = bytearray(GOOD)
    for place, value in changes:
        data[place] = value
    same_or_refused(tmp_path / "a.fdy", reseal(data) if again else bytes(data))


def test_nothing_is_read_before_the_signature(tmp_path: Path) -> None:
    """Damage behind the table is met only by readers that trust the bundle."""
    sample = replace(parts(), encoded=b"\xc1")
    with pytest.raises(NotSigned):
        read(tmp_path / "a.fdy", sample.assemble())
    with pytest.raises(errors.ManifestMalformed):
        Bundle.open(tmp_path / "a.fdy")


def test_changed_weight_files_of_a_signed_bundle(tmp_path: Path) -> None:
    contents = bytearray(np.arange(16, dtype=np.float32).tobytes())
    old = parts().manifest.weights
    source = msgspec.structs.replace(
        old.sources[0], offset=0, sha256=hashlib.sha256(contents).digest()
    )
    file = msgspec.structs.replace(old.files[0], size=64)
    weights = msgspec.structs.replace(old, files=(file,), sources=(source,))
    path = tmp_path / "a.fdy"
    path.write_bytes(signed(with_manifest(weights=weights), ALICE))
    target = np.zeros((4, 4), np.float32)
    with Bundle.open(path, TRUST_ALICE) as bundle:
        place = tmp_path / file.name
        place.write_bytes(contents)
        load(bundle.manifest, lambda _: target, tmp_path)
        assert target.sum() == 120
        contents[5] ^= 1
        place.write_bytes(contents)
        with pytest.raises(WeightsChanged):
            load(bundle.manifest, lambda _: target, tmp_path)


@pytest.mark.parametrize("value", ["", ":", "/nonexistent/key.pem", "{empty}", "{private}"])
def test_unusable_trust_is_an_error(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.fdy"
    path.write_bytes(GOOD)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("FOUNDRY_TRUST", value.format(empty=empty, private=ALICE))
    with pytest.raises(TrustUnusable):
        Session.open(path)


def test_trust_of_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.fdy"
    path.write_bytes(UNSIGNED)
    with pytest.raises(TrustUnusable):
        Session.open(path, trust=[])
    with pytest.raises(NotSigned):
        Session.open(path, trust=ALICE.with_suffix(".pem"))
    monkeypatch.setenv("FOUNDRY_TRUST", str(KEYS))
    with pytest.raises(NotSigned):
        Session.open(path)


def test_keys_are_private_and_never_overwritten(tmp_path: Path) -> None:
    key = tmp_path / "release.key"
    create_key(key)
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="never overwritten"):
        create_key(key)
    key.unlink()
    with pytest.raises(UsageError, match="never overwritten"):
        create_key(key)
    assert not key.exists()


@pytest.mark.parametrize(
    ("name", "public"), [("a.key", "a.pem"), ("a", "a.pem"), ("v1.2", "v1.2.pem")]
)
def test_the_public_key_has_the_private_one_s_name(tmp_path: Path, name: str, public: str) -> None:
    assert create_key(tmp_path / name) == tmp_path / public
    with pytest.raises(UsageError, match=r"\.pem is for the public key"):
        create_key(tmp_path / public)


def test_a_damaged_bundle_is_not_signed(tmp_path: Path) -> None:
    data = bytearray(UNSIGNED)
    data[4100] ^= 1
    path = tmp_path / "a.fdy"
    path.write_bytes(data)
    with pytest.raises(errors.SectionDigestMismatch):
        sign(path, ALICE)
    assert path.read_bytes() == bytes(data) and os.listdir(tmp_path) == ["a.fdy"]
