"""`foundryc key` and `foundryc cache ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from foundryc.cache.entry import admit, read_record
from foundryc.cache.errors import NotWritable
from foundryc.cache.flight import obtain
from foundryc.cache.key import differences, key_of
from foundryc.cache.manage import collect, key_of_bundle, parse_size
from foundryc.cache.manage import verify as verify_all
from foundryc.cache.request import Request
from foundryc.cache.stores import open_store
from foundryc.cache.stores.base import check_key
from foundryrt.atomic import check_output
from foundryrt.bundle.reader import Bundle
from foundryrt.console import Json, note, print_json, print_table, reporting, write
from foundryrt.errors import FoundryError

app = typer.Typer(no_args_is_help=True, help="Bundles by key: list, fetch, push, check, evict.")
Url = Annotated[str, typer.Argument(metavar="URL", help="Folder, s3://, http(s):// or oci://.")]

# What `foundryc capture` and `foundryc key` ask for alike.
Name = Annotated[
    str | None,
    typer.Option(
        "--workload",
        help="An installed one (see `foundryc workloads`), a file such as ./demo.py, or"
        " package.module. By default the installed one that alone takes an option given.",
        show_default=False,
    ),
]
Target = Annotated[
    str | None,
    typer.Option(help="cuda or host. By default cuda where a GPU is.", show_default=False),
]
EmbedWeights = Annotated[
    bool, typer.Option("--embed-weights", help="Store the weights in the bundle itself.")
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Capture the workload under torch.compile (cuda).")
]
Fit = Annotated[
    bool,
    typer.Option("--fit", help="Sizes that are not given: as files, target and machine suggest."),
]
Base = Annotated[
    str | None,
    typer.Option(help="Where its memory begins (cuda): an address such as 0x640000000000."),
]


Arch = Annotated[
    str | None,
    typer.Option(
        help="Architectures of GPUs that the bundle is for beside the one here (cuda), which need"
        " not be here: sm_80,sm_87. The workload must have kernels for them.",
        show_default=False,
    ),
]
Relocate = Annotated[
    bool | None,
    typer.Option(
        "--relocate/--no-relocate",
        help="Whether its memory may lie anywhere (cuda, by default): three captures are compared,"
        " and the bundle is run elsewhere to prove it. Else it is bound to its base.",
        show_default=False,
    ),
]


def key(
    context: typer.Context,
    name: Name = None,
    target: Target = None,
    embed_weights: EmbedWeights = False,
    compile: Compile = False,
    base: Base = None,
    relocate: Relocate = None,
    fit: Fit = False,
    arch: Arch = None,
    device_profile: Annotated[
        str | None, typer.Option(help="A named GPU such as h100-sxm, for want of one here.")
    ] = None,
    part: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE: a part as it is on another machine.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="List the parts.")] = False,
    against: Annotated[
        Path | None, typer.Option(help="Say why this bundle is not the one.")
    ] = None,
    json: Json = False,
) -> None:
    """Print the content key of the bundle that `foundryc capture` would make.

    Takes the workload's options as capture does. With --against, the exit code is 1 for a miss.
    """
    with reporting():
        target = target or ("cuda" if device_profile else None)
        request = Request.read(
            name, target, embed_weights, context.args, compile, base, relocate, fit, arch
        )
        say_target(request)
        parts = request.parts(device_profile, part or ())
        found = {"key": key_of(parts)}
        wrong: dict[str, tuple[str, str]] = {}
        if against:
            with Bundle.open(against) as bundle:
                wrong = differences(read_record(bundle).parts, parts)
    if json:
        print_json({**found, "parts": parts, "differences": wrong})
    else:
        write(f"{found['key']}\n")
        if explain:
            print_table("", ("part", "value"), sorted(parts.items()))
        if against and wrong:
            rows = [(name, *values) for name, values in wrong.items()]
            print_table("", ("part", str(against), "asked for"), rows)
    if wrong:
        raise typer.Exit(1)


def say_target(request: Request) -> None:
    """Tell the target that was chosen for a user who named none."""
    if request.why:
        note(f"target {request.target}: {request.why}; --target chooses another")


@app.command("ls")
def list_entries(url: Url, json: Json = False) -> None:
    """List the entries, the last used first; nothing is checked."""
    with reporting():
        entries = sorted(open_store(url).entries(), key=lambda e: (-e.used, e.key))
    if json:
        print_json([{"key": e.key, "bytes": e.size, "used": e.used} for e in entries])
    else:
        for entry in entries:
            write(f"{entry.key}  {decimal(entry.size)}\n")


@app.command()
def get(
    url: Url,
    key: Annotated[str, typer.Argument(metavar="KEY")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle to write.")],
    json: Json = False,
) -> None:
    """Fetch and verify an entry; exit code 1 where there is none."""

    def missing(path: Path) -> None:
        raise FoundryError(f"cache {url}: no entry {key[:16]}…")

    with reporting():
        store = open_store(url)
        check_key(key)
        check_output(output)
        obtain(store, key, output, missing, note)
    if json:
        print_json({"key": key, "bytes": output.stat().st_size})


@app.command()
def put(
    url: Url,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE.fdy")],
    json: Json = False,
) -> None:
    """Push a bundle that was captured with --cache under its key."""
    with reporting():
        store = open_store(url)
        key = key_of_bundle(bundle)
        admit(bundle, key)
        if not store.writable:
            raise NotWritable(f"cache {url}: can only be read")
        claim = store.claim(key)
        if claim is None:
            raise FoundryError(f"cache {url}: another process is making {key[:16]}…; try again")
        with claim:
            store.put(key, bundle)
    if json:
        print_json({"key": key, "bytes": bundle.stat().st_size})
    else:
        write(f"{key}\n")


@app.command()
def verify(url: Url, json: Json = False) -> None:
    """Check every byte of every entry and evict what is refused; exit code 1 if any was."""
    with reporting():
        unread: dict[str, str] = {}
        found = verify_all(open_store(url), unread)
    bad = {key: why for key, why in found.items() if why}
    if json:
        ok = not bad and not unread
        total = len(found) + len(unread)
        print_json({"ok": ok, "entries": total, "evicted": bad, "unreadable": unread})
    else:
        more = f", {len(unread)} cannot be read" if unread else ""
        write(f"{len(found) + len(unread)} entries, {len(bad)} refused and evicted{more}\n")
    for why in (*bad.values(), *unread.values()):
        note(why)
    if bad or unread:
        raise typer.Exit(1)


@app.command()
def gc(
    url: Url,
    max_size: Annotated[str, typer.Option(help="What may stay, such as 10G.")],
    json: Json = False,
) -> None:
    """Evict the least recently used entries until the rest fits."""
    with reporting():
        evicted = collect(open_store(url), parse_size(max_size))
    total = sum(entry.size for entry in evicted)
    if json:
        print_json({"evicted": [entry.key for entry in evicted], "bytes": total})
    else:
        write(f"{len(evicted)} entries evicted, {decimal(total)}\n")
