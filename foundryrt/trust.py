"""Whose bundles may be used: Ed25519 public keys, from files or the environment."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foundryrt.bundle.signature import Signature, key_id
from foundryrt.errors import FoundryError, UsageError, install
from foundryrt.regular import open_regular

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

VARIABLE = "FOUNDRY_TRUST"
MAX_PEM = 64 << 10
KeyPath = str | os.PathLike[str]


class TrustUnusable(UsageError):
    """Signatures were asked for, but no usable public key was given. Never taken as "any"."""


class NotSigned(FoundryError):
    """The bundle carries no signature, and trust was asked for."""


class SignerNotTrusted(FoundryError):
    """The bundle is signed, but by none of the trusted keys."""


class SignatureWrong(FoundryError):
    """A signature that names a trusted key was not made by it over this bundle."""


@dataclass(frozen=True)
class Trust:
    """The trusted keys, raw, 32 bytes each; never empty."""

    keys: frozenset[bytes]

    def __post_init__(self) -> None:
        if not self.keys:
            raise TrustUnusable("trust needs at least one key; give a public key")

    @classmethod
    def load(cls, paths: Iterable[KeyPath]) -> Trust:
        """Keys from PEM files and from the `*.pem` of folders; TrustUnusable for anything else."""
        keys: set[bytes] = set()
        for path in paths:
            files = [Path(path)]
            if Path(path).is_dir():
                files = sorted(Path(path).glob("*.pem"))
                if not files:
                    raise TrustUnusable(f"{path}: the folder holds no .pem file with a public key")
            keys.update(read_public_key(file) for file in files)
        return cls(frozenset(keys))

    def check(self, message: bytes, signatures: tuple[Signature, ...]) -> None:
        """Return where a trusted key signed `message`.

        Else NotSigned, SignerNotTrusted, or SignatureWrong: an entry of a trusted key that is not
        valid is refused even beside a valid one, since the bundle was tampered with.
        """
        if not signatures:
            raise NotSigned("the bundle is not signed, and only signed bundles are trusted here")
        known = [entry for entry in signatures if entry.key in self.keys]
        if not known:
            signers = ", ".join(entry.key_id[:16] for entry in signatures[:4])
            raise SignerNotTrusted(
                f"the bundle is signed by {signers}, which is not trusted; trusted here: "
                + ", ".join(sorted(key_id(key)[:16] for key in self.keys)[:4])
            )
        for entry in known:
            if not valid(entry, message):
                raise SignatureWrong(
                    f"the signature of {entry.key_id[:16]} does not belong to this bundle: "
                    "it was changed after signing; get it again from its source"
                )


def resolve(paths: KeyPath | Iterable[KeyPath] | None) -> Trust | None:
    """Trust from an argument, else from FOUNDRY_TRUST, else None: signatures are not asked for.

    The variable holds paths, separated as in PATH. TrustUnusable where it is set to nothing, or
    either names something unusable.
    """
    if paths is not None:
        return Trust.load([paths] if isinstance(paths, (str, os.PathLike)) else paths)
    named = os.environ.get(VARIABLE)
    if named is None:
        return None
    parts = [part for part in named.split(os.pathsep) if part]
    if not parts:
        raise TrustUnusable(f"{VARIABLE} is set but empty; name a public key, or unset it")
    return Trust.load(parts)


def valid(entry: Signature, message: bytes) -> bool:
    """Whether the entry's own key made the entry's signature over `message`."""
    from cryptography.exceptions import InvalidSignature

    try:
        _ed25519().from_public_bytes(entry.key).verify(entry.value, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def read_public_key(path: Path) -> bytes:
    """The raw key of a PEM file; TrustUnusable unless it is an Ed25519 public key."""
    _ed25519()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        with open_regular(path) as file:
            data = file.read(MAX_PEM)
    except OSError as error:
        raise TrustUnusable(f"{path}: the public key cannot be read: {error.strerror}") from error
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        hint = "a private key; give the public one" if b"PRIVATE KEY" in data else "none"
        raise TrustUnusable(f"{path}: need a public key in PEM, this is {hint}") from None
    if not isinstance(key, _ed25519()):
        raise TrustUnusable(f"{path}: the public key is not Ed25519")
    return key.public_bytes_raw()


def _ed25519() -> type[Ed25519PublicKey]:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        raise FoundryError(f"signatures need cryptography: {install('sign')}") from None
    return Ed25519PublicKey
