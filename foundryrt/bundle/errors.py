"""One named error for each kind of damage that a bundle can have."""

from __future__ import annotations

from foundryrt.errors import FoundryError


class BundleError(FoundryError):
    """The bundle cannot be used; the message says where it is damaged."""


class NotABundle(BundleError):
    """The file does not begin with `FDY`."""


class UnsupportedVersion(BundleError):
    """The file was written in a format version that this reader does not know."""


class LengthMismatch(BundleError):
    """The file is shorter or longer than its header says."""


class HeaderDamaged(BundleError):
    """Header fields contradict each other, or reserved bytes are set."""


class TableDamaged(BundleError):
    """The section table does not match its digest."""


class SectionMalformed(BundleError):
    """A section entry's name, flags or reserved bytes are wrong, or its name is taken."""


class SectionMisaligned(BundleError):
    """A section does not begin at a multiple of 4 KiB."""


class SectionOverlap(BundleError):
    """A section begins inside the one before it."""


class SectionOutOfBounds(BundleError):
    """A section reaches beyond the beginning of the section table."""


class UncoveredBytes(BundleError):
    """Bytes that belong to no section, or padding that is not zero."""


class UnknownSection(BundleError):
    """A section of unknown kind that is not marked optional."""


class UnknownCodec(BundleError):
    """A section is stored with a codec that this reader does not know."""


class SectionTooLarge(BundleError):
    """A section would be larger, once unpacked, than the limit for its kind."""


class SectionDigestMismatch(BundleError):
    """A section's bytes do not match their SHA-256."""


class SectionUnpackFailed(BundleError):
    """A compressed section does not unpack to the length that the table states."""


class ManifestMissing(BundleError):
    """There is no manifest, or more than one."""


class ManifestMalformed(BundleError):
    """The manifest is not MessagePack of the expected shape."""


class InvalidReference(BundleError):
    """Something in the manifest points at a thing that does not exist or is of another kind."""


class InvalidValue(BundleError):
    """A value in the manifest is outside what the format allows."""


class DuplicateName(BundleError):
    """Two things that are looked up by name share one."""


class RegionOverlap(BundleError):
    """Two regions of the arena overlap."""


class TensorOutOfBounds(BundleError):
    """A tensor reaches beyond its region."""


class WeightOutOfBounds(BundleError):
    """A weight recipe reads beyond its source or writes beyond its tensor."""


class TableMalformed(BundleError):
    """A graph table's columns are missing, of a wrong type, or contradict each other."""


class KernelDigestMismatch(BundleError):
    """A kernel binary is not the one that the manifest names."""


class SignatureMalformed(BundleError):
    """The signature section is not the last one, not the only one, or not of the stated form."""
