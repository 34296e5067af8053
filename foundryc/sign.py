"""Signing a bundle: key pairs, and a signature section added or renewed in place of the file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from foundryrt.atomic import AtomicFile, writing
from foundryrt.bundle import signature
from foundryrt.bundle.layout import Codec, Section, align, write_ends
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import SectionKind
from foundryrt.errors import FoundryError, UsageError, install
from foundryrt.regular import open_regular
from foundryrt.trust import MAX_PEM, Trust, valid

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_CHUNK = 16 << 20


def sign(path: Path, key_file: Path) -> str:
    """Sign the bundle at `path` and return the key's id; other keys' signatures stay.

    The new file is checked whole before it takes the old one's place. A BundleError for a damaged
    bundle, UsageError for a key that is none.
    """
    key = _read_private_key(key_file)
    public = key.public_key().public_bytes_raw()
    with Bundle.open(path) as bundle:
        # A signature that does not belong here would make everyone who trusts its key refuse.
        kept = [
            entry
            for entry in bundle.signatures
            if entry.key != public and valid(entry, bundle.message)
        ]
        own = signature.Signature(public, key.sign(bundle.message))
        data = signature.pack([*kept, own])
        with writing(path), AtomicFile(path) as target:
            _write(bundle, target, data)
            target.sync()
            with Bundle.open(target.temporary, Trust(frozenset({public}))) as written:
                written.verify()
            shutil.copymode(path, target.temporary)
            target.commit()
    return own.key_id


def _write(bundle: Bundle, target: AtomicFile, signatures: bytes) -> None:
    sections = list(signature.payload(bundle.sections))
    end = align(sections[-1].offset + sections[-1].stored)
    file = target.file
    with open(bundle.path, "rb") as source:
        left = sections[-1].offset + sections[-1].stored
        while left and (part := source.read(min(left, _CHUNK))):
            file.write(part)
            left -= len(part)
    sections.append(
        Section(
            SectionKind.SIGNATURE, signature.NAME, end, len(signatures), len(signatures),
            Codec.NONE, hashlib.sha256(signatures).digest(), optional=True,
        )
    )  # fmt: skip
    file.seek(end)
    file.write(signatures)
    write_ends(file, sections)


def create_key(path: Path) -> Path:
    """Make a key pair: the private key at `path` (mode 0600), the public one beside it as `.pem`.

    Returns the public key's path. UsageError where either file exists.
    """
    private_key = _private_key_type()
    from cryptography.hazmat.primitives import serialization as form

    public = path.with_name(path.name.removesuffix(".key") + ".pem")
    if path.suffix == ".pem":
        raise UsageError(f"{path}: .pem is for the public key; name the private one such as x.key")
    key = private_key.generate()
    secret = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    open_part = key.public_key().public_bytes(
        form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
    )
    with contextlib.ExitStack() as undo:
        for place, mode, data in ((path, 0o600, secret), (public, 0o644, open_part)):
            try:
                handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                undo.callback(place.unlink)
                with open(handle, "wb") as file:
                    file.write(data)
            except FileExistsError:
                raise UsageError(f"{place}: exists; a key is never overwritten") from None
            except OSError as error:
                raise FoundryError(f"{place}: cannot be written: {error.strerror}") from error
        undo.pop_all()
    return public


def _read_private_key(path: Path) -> Ed25519PrivateKey:
    kind = _private_key_type()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        with open_regular(path) as file:
            key = load_pem_private_key(file.read(MAX_PEM), password=None)
    except OSError as error:
        raise UsageError(f"{path}: the key cannot be read: {error.strerror}") from error
    except TypeError:
        raise UsageError(f"{path}: the key is encrypted; decrypt it for signing") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{path}: need a private key in PEM") from None
    if not isinstance(key, kind):
        raise UsageError(f"{path}: the key is not Ed25519")
    return key


def _private_key_type() -> type[Ed25519PrivateKey]:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        raise FoundryError(f"signing needs cryptography: {install('sign')}") from None
    return Ed25519PrivateKey
