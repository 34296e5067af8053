"""A cache in bad hands: poisoned and replayed entries, lying servers, full disk, SIGKILL."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

import foundryc.cache.entry
from foundryc.cache.errors import Poisoned, Unreachable
from foundryc.cache.flight import obtain
from foundryc.cache.manage import collect, verify
from foundryc.cache.stores import open_store
from foundryc.cache.stores.base import check_key, key_in
from foundryc.cache.stores.local import LocalStore
from foundryrt.atomic import AtomicFile, hold
from foundryrt.bundle.reader import Bundle
from foundryrt.errors import FoundryError, Unreadable, UsageError
from foundryrt.remote import attempts
from foundryrt.remote.bundle import open_bundle
from tests.attacks.samples import parts as sample
from tests.attacks.servers import (
    Behaviour,
    cut_off,
    endless,
    flipped,
    honest,
    huge,
    no_ranges,
    server,
    shorter,
    slow,
)  # fmt: skip
from tests.unit.cache_samples import KEY, sealed

WORKER = Path(__file__).parents[1] / "unit" / "cache_worker.py"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    (tmp_path / "cache").mkdir()
    return LocalStore(tmp_path / "cache")


def filled(store: LocalStore, number: int = 0) -> Path:
    path = store.folder.parent / f"{number}.fdy"
    key = sealed(path, number)
    store.put(key, path)
    return store.folder / f"{key}.fdy"


def never(path: Path) -> None:
    raise AssertionError("captured, though the entry was there")


def test_hit(store: LocalStore, tmp_path: Path) -> None:
    entry = filled(store)
    assert obtain(store, KEY, tmp_path / "out.fdy", never, print) == "hit"
    assert (tmp_path / "out.fdy").read_bytes() == entry.read_bytes()


def test_what_the_disk_refuses_is_an_error_of_the_name_that_was_given(
    store: LocalStore, tmp_path: Path
) -> None:
    filled(store)
    link = tmp_path / "out.fdy"
    link.symlink_to("n" * 240)
    with pytest.raises(FoundryError, match=r"/out.fdy: cannot be written: File name too long"):
        obtain(store, KEY, link, never, print)


def test_a_link_at_the_output_stays_a_link(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link, behind = tmp_path / "out.fdy", tmp_path / "disk" / "b.fdy"
    link.symlink_to(behind)
    for outcome in ("captured", "hit"):
        assert obtain(store, KEY, link, lambda p: void(sealed(p)), print) == outcome
        assert link.is_symlink() and behind.is_file()
        behind.unlink()
    assert not [*behind.parent.iterdir()]


@pytest.mark.parametrize("at", [70, 5000, 9000, -1000, -3])
def test_poisoned_entry_is_refused_reported_and_replaced(
    store: LocalStore, tmp_path: Path, at: int
) -> None:
    entry = filled(store)
    good = entry.read_bytes()
    data = bytearray(good)
    data[at] ^= 1
    entry.write_bytes(data)
    said: list[str] = []
    out = tmp_path / "out.fdy"
    assert obtain(store, KEY, out, lambda p: void(sealed(p)), said.append) == "captured"
    assert len(said) == 1 and "refused" in said[0]
    assert entry.read_bytes() == good == out.read_bytes()


def void(value: object) -> None:
    """For a callback that gives nothing back."""


def test_replayed_entry_of_another_key_is_refused(store: LocalStore, tmp_path: Path) -> None:
    older = filled(store, 1)
    shutil.copy(older, store.folder / f"{KEY}.fdy")
    with pytest.raises(Poisoned, match="bundle of key"):
        store.fetch(KEY, tmp_path / "out")
    assert list(verify(store).values()).count("") == 1
    assert [entry.key for entry in store.entries()] == [older.stem]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_entry_that_is_no_file(store: LocalStore, tmp_path: Path, kind: str) -> None:
    path = store.folder / f"{KEY}.fdy"
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    out = tmp_path / "o"
    assert obtain(store, KEY, out, lambda p: void(sealed(p)), void) == "captured"
    assert path.is_file() and not path.is_symlink()


@pytest.mark.parametrize("name", ["../x", "a" * 63, "A" * 64, "/etc/passwd", "", "a" * 64 + "\n"])
def test_path_tricks(store: LocalStore, tmp_path: Path, name: str) -> None:
    assert key_in(name + ".fdy") is None
    with pytest.raises(UsageError):
        check_key(name)
    with pytest.raises(UsageError):
        store.fetch(name, tmp_path / "out")


def test_no_credentials_in_urls() -> None:
    for url in ("s3://key:hunter2@bucket/x", "https://h/x?sig=hunter2", "oci://u:hunter2@r/x"):
        with pytest.raises(UsageError) as caught:
            open_store(url)
        assert "hunter2" not in str(caught.value)


def test_lru(store: LocalStore, tmp_path: Path) -> None:
    entries = [filled(store, number) for number in range(3)]
    for age, entry in enumerate(entries):
        os.utime(entry, (1000 + age, 1000 + age))
    store.fetch(entries[0].stem, tmp_path / "out")
    size = entries[0].stat().st_size
    assert [entry.key for entry in collect(store, 2 * size)] == [entries[1].stem]


def test_full_disk(store: LocalStore, tmp_path: Path) -> None:
    filled(store)
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "from foundryc.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "cache"]
    out = tmp_path / "out.fdy"
    done = subprocess.run(
        [*command, "get", str(store.folder), KEY, "-o", str(out)], capture_output=True, text=True
    )
    assert done.returncode == 1 and "cannot be written" in done.stderr
    assert not out.exists() and not list(tmp_path.glob(".out*"))
    done = subprocess.run(
        [*command, "put", str(tmp_path / "other"), str(tmp_path / "0.fdy")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "cannot be written" in done.stderr
    assert not list((tmp_path / "other").glob("**/*.fdy"))
    assert resource.getrlimit(resource.RLIMIT_FSIZE) is not None


def worker(url: object, out: Path, log: Path, seconds: float = 0) -> subprocess.Popen[str]:
    command = [sys.executable, str(WORKER), str(url), str(out), str(log), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_single_flight_and_takeover(store: LocalStore, tmp_path: Path) -> None:
    log = tmp_path / "log"
    owner = worker(store.folder, tmp_path / "owner.fdy", log, 600)
    deadline = time.monotonic() + 120
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    others = [worker(store.folder, tmp_path / f"{i}.fdy", log, 0.2) for i in range(5)]
    time.sleep(0.5)
    assert log.read_text() == "captured\n"
    owner.kill()
    owner.wait()
    outcomes = sorted(other.communicate(timeout=300)[0].strip() for other in others)
    assert outcomes == ["captured"] + ["hit"] * 4
    assert log.read_text() == "captured\n" * 2


def test_killed_at_random_points(store: LocalStore, tmp_path: Path) -> None:
    """What is stored, or put in place, is always whole, and the next one ends its work."""
    out = tmp_path / "out.fdy"
    script = Path(__file__).with_name("killed_forks.py")
    done = subprocess.run(
        [sys.executable, str(script), str(store.folder), str(out)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "200 killed\n"), done.stderr
    assert obtain(store, KEY, out, lambda p: void(sealed(p)), void) in ("hit", "captured")
    collect(store, 0)
    assert store.entries() == [] and not list((store.folder / ".new").iterdir())


def command(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", "from foundryc.cli import main; main()", "cache"]
    return subprocess.run([*line, *map(str, arguments)], capture_output=True, text=True, **options)


@pytest.mark.parametrize("name", [".new", ".locks"])
@pytest.mark.parametrize("whole", [False, True], ids=["file", "folder"])
def test_links_in_a_shared_folder_are_not_followed(
    store: LocalStore, tmp_path: Path, name: str, whole: bool
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / KEY).write_text("mine")
    if whole:
        (store.folder / name).symlink_to(victim)
    else:
        (store.folder / name).mkdir()
        (store.folder / name / KEY).symlink_to(victim / KEY)
    sealed(tmp_path / "a.fdy")
    with contextlib.suppress(Unreachable):
        claim = store.claim(KEY)
        assert claim is not None
        with claim:
            store.put(KEY, tmp_path / "a.fdy")
    with contextlib.suppress(Unreachable):
        store.clean()
    assert (victim / KEY).read_text() == "mine" and len(list(victim.iterdir())) == 1
    entry = store.folder / f"{KEY}.fdy"
    assert not entry.is_symlink()


def test_an_entry_that_cannot_be_read_is_not_poisoned(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = filled(store)
    good = entry.read_bytes()

    def refuse(path: Path, *rest: object) -> object:
        if path == entry:
            raise Unreadable(f"{path}: cannot be read: Permission denied")
        return Bundle.map(path)

    monkeypatch.setattr(foundryc.cache.entry.Bundle, "open", refuse)
    with pytest.raises(Unreadable):
        verify(store)
    unread: dict[str, str] = {}
    assert verify(store, unread) == {} and "Permission denied" in unread[KEY]
    assert entry.read_bytes() == good
    said: list[str] = []
    out = tmp_path / "out.fdy"
    assert obtain(store, KEY, out, lambda p: void(sealed(p)), said.append) == "captured"
    assert len(said) == 1 and "cannot be read" in said[0] and out.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="plays another user")
def test_another_user_and_a_read_only_folder(tmp_path: Path) -> None:
    """What root keeps is used by somebody who may only read it, or not even that."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "cache"
        folder.mkdir()
        shutil.copy(filled(LocalStore(folder)), Path(name) / "copy.fdy")
        for inner in (".new", ".locks"):  # An upload of artifacts drops them.
            shutil.rmtree(folder / inner, ignore_errors=True)
        os.chmod(name, 0o755)
        (Path(name) / "home").mkdir()
        os.chmod(Path(name) / "home", 0o777)
        home = Path(name) / "home"
        code = (
            "import os, sys; sys.path[:0] = sys.argv[2].split(':')\n"
            "from pathlib import Path\n"
            "from foundryc.cache.stores import open_store\n"
            "from foundryc.cache.flight import obtain\n"
            "from foundryc.cache.manage import verify\n"
            "from tests.unit.cache_samples import KEY, sealed\n"
            "os.setgid(65534); os.setuid(65534)\n"
            "store, out, said = open_store(sys.argv[1]), Path('home/out.fdy'), []\n"
            "build = lambda path: sealed(path) and None\n"
            "made = obtain(store, KEY, out, build, said.append)\n"
            "unread = {}; found = verify(store, unread)\n"
            "print(made, store.writable, len(said), len(found), len(unread))\n"
        )
        line = [sys.executable, "-c", code, str(folder), ":".join(filter(None, sys.path))]
        environment = {**os.environ, "XDG_CACHE_HOME": str(home), "TMPDIR": str(home)}

        def other_user() -> str:
            done = subprocess.run(line, capture_output=True, text=True, cwd=name, env=environment)
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        (entry,) = folder.iterdir()
        os.chmod(entry, 0o644)
        os.chmod(folder, 0o555)
        assert other_user() == "hit False 0 1 0"
        os.chmod(entry, 0o600)
        assert other_user() == "captured False 1 0 1"
        assert entry.read_bytes() == (Path(name) / "copy.fdy").read_bytes()


def test_remains_of_killed_writers_beside_an_output(store: LocalStore, tmp_path: Path) -> None:
    filled(store)
    out, old = tmp_path / "out.fdy", 1_000_000
    names = [f".out.fdy.{digit * 12}.tmp" for digit in "0123"]
    dead, new, held, folder = (tmp_path / name for name in names)
    other = tmp_path / ".other.fdy.000000000000.tmp"
    for path in (dead, new, held, other):
        path.write_bytes(b"half")
    folder.mkdir()
    (folder / "out.fdy").write_bytes(b"half")
    for path in (dead, held, other, folder):
        os.utime(path, (old, old))
    with open(held, "rb") as file:
        hold(file.fileno())
        assert obtain(store, KEY, out, never, print) == "hit"
        assert not dead.exists() and not folder.exists()
        assert new.exists() and held.exists() and other.exists()
    with AtomicFile(out):
        assert not held.exists() and new.exists()
    assert len(list(tmp_path.glob(".out*"))) == 1


def test_looking_makes_no_folders(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    for arguments in (("ls", folder), ("verify", folder), ("gc", folder, "--max-size", "1")):
        done = command(*arguments)
        assert (done.returncode, done.stderr) == (2, f"error: cache {folder}: no such folder\n")
    assert not folder.exists()
    done = command("get", folder, KEY, "-o", tmp_path / "a.fdy")
    assert done.returncode == 1 and "no entry" in done.stderr
    assert not (tmp_path / "a.fdy").exists()


def test_a_file_url_is_unquoted(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/a%20folder%25")
    assert isinstance(store, LocalStore) and store.folder == tmp_path / "a folder%"
    path = tmp_path / "a b.fdy"
    sample().write(path)
    with open_bundle(f"file://{tmp_path}/a%20b.fdy") as bundle:
        assert bundle.path == path
    for url in ("file://elsewhere/x", "file:///x?y", "file:///x#y"):
        with pytest.raises(UsageError):
            open_store(url)
        with pytest.raises(UsageError):
            open_bundle(url)


def test_two_writers(store: LocalStore, tmp_path: Path) -> None:
    path = tmp_path / "a.fdy"
    sealed(path)
    url = str(store.folder)
    command = [sys.executable, "-c", "from foundryc.cli import main; main()", "cache", "put", url]
    writers = [subprocess.Popen([*command, str(path)], stderr=subprocess.PIPE) for _ in range(3)]
    codes = [writer.wait(300) for writer in writers]
    assert 0 in codes and set(codes) <= {0, 1}
    assert verify(store) == {KEY: ""}


def limit(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    limits = attempts.Limits(attempts=3, backoff=0.01, seconds=seconds, chunk=4096)
    monkeypatch.setattr(attempts, "LIMITS", limits)


@pytest.mark.parametrize(
    ("behave", "error"),
    [(endless, Poisoned), (cut_off, Unreachable), (slow, Unreachable), (huge, FoundryError),
     (no_ranges, Unreachable), (shorter, Poisoned), (flipped, Poisoned)],
)  # fmt: skip
def test_bad_servers(
    tmp_path: Path, behave: Behaviour, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, 0.5 if behave is slow else 60)
    sealed(tmp_path / "a.fdy")
    with server((tmp_path / "a.fdy").read_bytes(), behave) as url, pytest.raises(error):
        open_store(url).fetch(KEY, tmp_path / "out")


def test_broken_download_goes_on_where_it_ended(tmp_path: Path, monkeypatch) -> None:
    limit(monkeypatch, 60)
    sealed(tmp_path / "a.fdy")
    seen: list[int] = []

    def flaky(handler: BaseHTTPRequestHandler, data: bytes, start: int, end: int) -> None:
        seen.append(start)
        (cut_off if len(seen) % 2 else honest)(handler, data, start, end)

    with server((tmp_path / "a.fdy").read_bytes(), flaky) as url:
        assert open_store(url).fetch(KEY, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "a.fdy").read_bytes()
    assert seen == sorted(seen) and seen.count(0) == 2


def test_missing_entry_and_unreachable_store(tmp_path: Path, monkeypatch) -> None:
    limit(monkeypatch, 60)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said: list[str] = []
    out = tmp_path / "out.fdy"
    build = lambda p: void(sealed(p))  # noqa: E731
    assert obtain(open_store("http://127.0.0.1:9"), KEY, out, build, said.append) == "captured"
    assert len(said) == 1 and "attempts" in said[0]


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    def build(path: Path) -> None:
        raise FoundryError(f"{path}: cannot be written: No space left on device")

    out = tmp_path / "out.fdy"
    with pytest.raises(FoundryError, match=f"^{out}: cannot be written"):
        obtain(open_store(str(tmp_path / "cache")), KEY, out, build, print)
    with pytest.raises(OSError) as caught:
        AtomicFile(tmp_path / "none" / "out.fdy")
    assert caught.value.filename == str(tmp_path / "none" / "out.fdy")
