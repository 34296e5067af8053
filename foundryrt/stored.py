"""A bundle's weight sources, in files that are open, as arrays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from foundryrt.bundle.schema import Manifest
from foundryrt.convert import AnyArray, decode_columns
from foundryrt.dequantized import decode_kept
from foundryrt.weight_files import OpenFile
from foundryrt.weights import WeightsChanged, check_source


class Sources:
    """What `foundryrt.convert.fill` asks for, of `files` in the manifest's order.

    The digests of the sources in `digested` are compared before a byte of them is used, those of
    the others by other ranks; of nothing with `check=False`. `progress` gets the bytes read.
    """

    def __init__(
        self,
        manifest: Manifest,
        files: Sequence[OpenFile],
        digested: Collection[int],
        check: bool,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._sources = manifest.weights.sources
        self._files = files
        self._digested = digested
        self._check = check
        self._progress = progress
        self._compared: set[int] = set()

    def values(self, index: int, dtype: str, columns: range) -> tuple[AnyArray, int]:
        """At least these columns of a source, and the number of the first.

        WeightsChanged where its bytes are not those of the capture, FoundryError for a conversion
        that is not possible.
        """
        source, file = self._sources[index], self._files[self._sources[index].file]
        data = file.mapped[source.offset : source.offset + source.length]
        if len(data) != source.length:
            raise WeightsChanged(f"weights: {file.path} was cut off")
        own = self._check and index in self._digested
        if own and index not in self._compared:
            check_source(source, data, file.path)
        if self._progress and index not in self._compared:
            self._progress(len(data) if own else len(data) * len(columns) // source.columns)
        if own:
            self._compared.add(index)
        # What is kept goes by digests, which tell nothing of bytes that nobody compares.
        if own or (self._check and len(columns) == source.columns):
            return decode_kept(source, data, dtype, keep=own), 0
        return decode_columns(source, data, dtype, columns)
