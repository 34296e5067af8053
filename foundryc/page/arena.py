"""A picture of a bundle's memory: a bar a region, with the tensors where they lie in it."""

from __future__ import annotations

from math import prod

from foundryc.page.html import COLOURS, Markup, drawing, join, key, text
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import DTYPES, ROLES, Tensor
from foundryrt.printable import size

_WIDTH, _BAR, _ROW = 1000.0, 18.0, 46.0
_MOST = 3000
"""Tensors that are drawn of a region."""


def arena(bundle: Bundle) -> Markup:
    """Each region from its first to its last byte, whatever its size; grey is what has no name.

    Of ranks' slabs, one.
    """
    manifest = bundle.manifest
    regions = [
        (n, region) for n, region in enumerate(manifest.regions) if region.size and not region.owner
    ]
    total = sum(region.peer_stride or region.size for _, region in regions)
    parts: list[Markup] = []
    for row, (number, region) in enumerate(regions):
        tensors = [tensor for tensor in manifest.tensors if tensor.region == number]
        y = row * _ROW
        own = region.peer_stride or region.size
        share = f"{own / total:.1%} of the arena, {len(tensors)} tensors"
        parts += [
            Markup(f'<text x="0" y="{y + 13:g}">{text(region.name)}</text>'),
            Markup(
                f'<text x="{_WIDTH:g}" y="{y + 13:g}" text-anchor="end" class="faint">'
                f"{text(size(own))}, {share}</text>"
            ),
            Markup(
                f'<rect x="0" y="{y + 18:g}" width="{_WIDTH:g}" height="{_BAR:g}" rx="3" '
                f'class="c{COLOURS}" opacity=".45"/>'
            ),
            *(_segments(tensors, role, own, y + 18) for role in ROLES),
        ]
    used = {tensor.role for tensor in manifest.tensors}
    picture = drawing(_WIDTH, len(regions) * _ROW, "regions of the arena", *parts)
    names = [(n, role) for n, role in enumerate(ROLES) if role in used]
    return join([picture, key([*names, (COLOURS, "without a name")])])


def _segments(tensors: list[Tensor], role: str, whole: int, y: float) -> Markup:
    path = []
    for tensor in [tensor for tensor in tensors if tensor.role == role][:_MOST]:
        begin = _WIDTH * tensor.offset / whole
        width = max(_WIDTH * _bytes(tensor) / whole - 0.3, 0.4)
        path.append(f"M{begin:.2f} {y:g}h{width:.2f}v{_BAR:g}h-{width:.2f}z")
    return Markup(f'<path class="c{ROLES.index(role)}" d="{"".join(path)}"/>')


def _bytes(tensor: Tensor) -> int:
    """From the first to the last element."""
    if not prod(tensor.shape):
        return 0
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    return (reach + 1) * DTYPES.get(tensor.dtype, 1)
