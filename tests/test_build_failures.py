"""What a build says and leaves behind when the compiler, the folder or the disk lets it down."""

import contextlib
import ctypes
import errno
import os
import shutil
import stat
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from graphc.backends.c import build, cache
from graphc.backends.c.build import build_library, load
from graphc.backends.c.cache import Recipe, build_root
from graphc.backends.c.toolchain import find_toolchain
from graphc.errors import ToolchainError, UserError
from graphc.ir.source import SourceFile

GCC = shutil.which("gcc")
pytestmark = pytest.mark.skipif(GCC is None, reason="gcc is not installed")

HEADER = SourceFile("net.h", "float twice(float x);\nfloat thrice(float x);\n")
TWICE = SourceFile("twice.c", '#include "net.h"\nfloat twice(float x) { return 2 * x; }\n')
THRICE = SourceFile("thrice.c", '#include "net.h"\nfloat thrice(float x) { return 3 * x; }\n')
FILES = (HEADER, TWICE, THRICE)


@pytest.fixture(autouse=True)
def root(monkeypatch, tmp_path) -> Path:
    for name in ("CC", "GRAPHC_MARCH", "GRAPHC_SANITIZE", "GRAPHC_COMPILE_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GRAPHC_OPENMP", "0")
    monkeypatch.setenv("GRAPHC_BUILD_DIR", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture
def fake_cc(monkeypatch, tmp_path):
    """Sets CC to a script; ``{gcc}`` in its text runs the true compiler."""

    def install(text: str, folder: str = "tools") -> Path:
        path = tmp_path / folder / "cc"
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n" + text.replace("{gcc}", f'exec {GCC} "$@"') + "\n")
        path.chmod(0o755)
        monkeypatch.setenv("CC", str(path))
        return path

    return install


def on_compile(text: str, flag: str = "-c") -> str:
    return f'case " $* " in *" {flag} "*) {text};; esac\n{{gcc}}'


def value(library: ctypes.CDLL, name: str, x: float) -> float:
    function = library[name]
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
    return function(x)


def entries(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.name != ".locks")


def failed_name() -> str:
    return f"failed-{Recipe('net', FILES, find_toolchain(), ('-lm',)).key[:16]}"


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 20
    while not path.exists() or not path.read_text().strip():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)
    return path.read_text()


def check_dead(pid: int) -> None:
    """A killed process that nobody waits for may stay in the table for a moment."""
    deadline = time.monotonic() + 10
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline, f"process {pid} still runs"
            time.sleep(0.01)


# Compilers that misbehave


def test_a_failing_compiler_is_reported_with_command_code_tail_and_source(root, fake_cc):
    path = fake_cc(on_compile("seq 1 30 >&2; exit 3"), folder="my tools")
    with pytest.raises(ToolchainError) as caught:
        build_library("net", FILES, jobs=1)
    message = str(caught.value)
    kept = root / failed_name()
    assert "exit code 3" in message
    assert f"'{path}' -std=c11" in message
    assert f"cd {kept} && " in message
    assert "\n    30" in message
    assert "\n    11\n" in message
    assert "\n    10\n" not in message
    source = message.split("source:")[1].split()[0]
    assert Path(source).parent == kept
    assert Path(source).read_text() in (TWICE.text, THRICE.text)
    assert entries(root) == [kept.name]


def test_a_source_that_does_not_compile_can_be_tried_again_by_hand(root):
    bad = SourceFile("bad.c", "int f(void) { int unused; return 0; }\n")
    with pytest.raises(ToolchainError, match="unused variable") as caught:
        build_library("net", [bad])
    command = str(caught.value).split("command: ")[1].splitlines()[0]
    assert subprocess.run(["sh", "-c", command], capture_output=True).returncode == 1


def test_the_next_build_works_and_removes_what_was_kept(root, tmp_path, fake_cc):
    broken = tmp_path / "broken"
    broken.touch()
    fake_cc(on_compile(f"[ -e {broken} ] && exit 1"))
    for _ in range(2):
        with pytest.raises(ToolchainError):
            build_library("net", FILES)
    broken.unlink()
    built = build_library("net", FILES)
    assert entries(root) == [built.folder.name]


def test_a_link_that_fails_is_reported(root):
    calls = SourceFile(
        "calls.c", "float absent(float x);\nfloat f(float x) { return absent(x); }\n"
    )
    with pytest.raises(ToolchainError, match=r"undefined reference to .absent") as caught:
        build_library("net", [calls])
    assert str(caught.value).startswith("net.so: ")
    assert f"source:  {root / 'failed-'}" in str(caught.value)


@pytest.mark.parametrize("flag", ["-c", "-shared"])
@pytest.mark.parametrize("lie", ["exit 0", 'for last; do :; done; : > "$last"; exit 0'])
def test_a_compiler_that_only_claims_to_have_worked(fake_cc, flag, lie):
    fake_cc(on_compile(lie, flag))
    with pytest.raises(ToolchainError, match="it did not write"):
        build_library("net", FILES)


def test_a_compiler_that_is_killed(fake_cc):
    fake_cc(on_compile("kill -9 $$"))
    with pytest.raises(ToolchainError, match="SIGKILL"):
        build_library("net", FILES)


def test_a_hanging_compiler_is_stopped_with_all_it_started(monkeypatch, tmp_path, fake_cc):
    pid = tmp_path / "pid"
    fake_cc(on_compile(f"sleep 60 & echo $! > {pid}; wait"))
    find_toolchain()
    monkeypatch.setenv("GRAPHC_COMPILE_TIMEOUT", "1")
    started = time.monotonic()
    with pytest.raises(ToolchainError, match="did not end within 1 s") as caught:
        build_library("net", FILES, jobs=1)
    assert "GRAPHC_COMPILE_TIMEOUT" in str(caught.value)
    assert time.monotonic() - started < 20
    check_dead(int(pid.read_text()))


def test_an_interrupt_stops_the_compilers_and_leaves_nothing(root, tmp_path, fake_cc):
    pid = tmp_path / "pid"
    fake_cc(on_compile(f"case $* in *thrice.c*) echo $$ > {pid}; exec sleep 60;; esac"))

    def interrupt(*_: object) -> None:
        wait_for(pid)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_library("net", FILES, jobs=2, progress=interrupt)
    check_dead(int(pid.read_text()))
    assert entries(root) == []


def test_no_more_compilers_at_a_time_than_jobs(tmp_path, fake_cc):
    fake_cc(on_compile(f'mkdir {tmp_path}/busy || exit 9; {GCC} "$@"; rmdir {tmp_path}/busy; exit'))
    files = [SourceFile(f"f{i}.c", f"int f{i}(void) {{ return {i}; }}\n") for i in range(4)]
    assert build_library("net", files, jobs=1).compiled


def test_a_missing_compiler_names_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match="apt-get install gcc"):
        build_library("net", FILES)


def test_a_compiler_that_goes_away_is_reported(monkeypatch, fake_cc):
    path = fake_cc("{gcc}")
    tools = find_toolchain()
    path.unlink()
    monkeypatch.setattr(build, "find_toolchain", lambda: tools)
    with pytest.raises(ToolchainError, match="cannot run"):
        build_library("net", FILES)


def test_instructions_this_processor_lacks_are_refused(monkeypatch):
    tools = replace(find_toolchain(), missing=("__AVX9000__",))
    monkeypatch.setattr(build, "find_toolchain", lambda: tools)
    monkeypatch.setenv("GRAPHC_MARCH", "future")
    with pytest.raises(UserError, match="__AVX9000__"):
        build_library("net", FILES)


def test_an_address_sanitizer_that_would_end_python_is_refused(monkeypatch):
    monkeypatch.setenv("GRAPHC_SANITIZE", "address")
    built = build_library("net", FILES)
    with pytest.raises(UserError, match=r"libasan\.so"):
        load(built.path)


def test_the_undefined_behaviour_sanitizer_loads(monkeypatch):
    monkeypatch.setenv("GRAPHC_SANITIZE", "undefined")
    built = build_library("net", FILES)
    assert value(load(built.path), "twice", 2.0) == 4.0
    assert str(built.folder).encode() in built.path.read_bytes()  # debuggers find the sources


def test_loading_leaves_denormal_numbers_alone():
    load(build_library("net", FILES).path)
    assert float.fromhex("0x1p-1070") * 1.0 != 0.0


# The folder


def test_a_link_as_build_folder_is_refused(root, tmp_path):
    (tmp_path / "real").mkdir(mode=0o700)
    root.symlink_to(tmp_path / "real")
    with pytest.raises(UserError, match="symbolic link"):
        build_library("net", FILES)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_build_folder_others_can_write_to_is_refused(root, mode):
    root.mkdir()
    root.chmod(mode)
    with pytest.raises(UserError, match="chmod go-w") as caught:
        build_library("net", FILES)
    assert str(root) in str(caught.value)
    assert stat.S_IMODE(root.stat().st_mode) == mode
    root.chmod(mode & ~0o022)
    assert build_library("net", FILES).compiled


def test_a_build_folder_of_somebody_else_is_refused(monkeypatch):
    monkeypatch.setattr(cache.os, "geteuid", lambda: 12345)
    with pytest.raises(UserError, match="belongs to the user"):
        build_root()


def test_a_file_as_build_folder_is_refused(root):
    root.write_text("a file")
    with pytest.raises(UserError, match="EEXIST"):
        build_root()


def test_a_project_with_a_build_folder_keeps_its_entries_there(monkeypatch, tmp_path):
    monkeypatch.delenv("GRAPHC_BUILD_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda *_, **__: tmp_path / "user")
    monkeypatch.chdir(tmp_path)
    assert build_root() == tmp_path / "user" / "build"
    (tmp_path / "build").mkdir()
    (tmp_path / "build").chmod(0o775)
    assert build_root() == tmp_path / "user" / "build"  # a build folder, but of no project
    (tmp_path / "pyproject.toml").touch()
    assert build_root() == tmp_path / "build" / "graphc"
    assert stat.S_IMODE((tmp_path / "build").stat().st_mode) == 0o775
    assert stat.S_IMODE((tmp_path / "build" / "graphc").stat().st_mode) == 0o700


def test_a_relative_build_folder_is_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHC_BUILD_DIR", "here/../there")
    assert build_root() == tmp_path / "there"


def fail_at(monkeypatch, owner: object, name: str, call: int, code: int) -> None:
    """The ``call``-th use of a function (from 1) fails as the operating system would."""
    honest, count = getattr(owner, name), 0

    def stub(*args: object, **options: object) -> object:
        nonlocal count
        count += 1
        if count == call:
            raise OSError(code, os.strerror(code))
        return honest(*args, **options)

    monkeypatch.setattr(owner, name, stub)


FAULTS = [
    *[(Path, "write_bytes", call) for call in (1, 2, 3)],
    *[(cache.os, "fsync", call) for call in range(1, 7)],
    (Path, "write_text", 1),
    (cache.os, "rename", 1),
    (cache.tempfile, "mkdtemp", 1),
    (build, "open", 1),
]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize(("owner", "name", "call"), FAULTS)
def test_a_failing_disk_is_named_and_leaves_no_half_entry(
    monkeypatch, root, owner, name, call, code
):
    find_toolchain()
    with monkeypatch.context() as patch:
        if owner is build:
            patch.setattr(build, "open", open, raising=False)
        fail_at(patch, owner, name, call, code)
        with pytest.raises(UserError) as caught:
            build_library("net", FILES)
    assert errno.errorcode[code] in str(caught.value)
    assert str(root) in str(caught.value)
    assert entries(root) == []
    assert build_library("net", FILES).compiled


def test_a_compiler_that_meets_a_full_disk(monkeypatch, root, fake_cc):
    fake_cc(on_compile("exit 1"))
    usage = shutil.disk_usage(root.parent)._replace(free=4096)
    monkeypatch.setattr(build.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="ENOSPC"):
        build_library("net", FILES)
    assert entries(root) == []


def test_a_failing_disk_after_the_rename_leaves_a_whole_entry(monkeypatch, root):
    with monkeypatch.context() as patch:
        fail_at(patch, cache.os, "fsync", 7, errno.EIO)
        with pytest.raises(UserError, match="EIO"):
            build_library("net", FILES)
    assert not build_library("net", FILES).compiled


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to read-only folders")
def test_a_read_only_folder_is_named(root):
    root.mkdir(mode=0o500)
    with pytest.raises(UserError, match="EACCES"):
        build_library("net", FILES)


def test_a_hit_needs_no_write(monkeypatch):
    build_library("net", FILES)
    for name in ("rename", "mkdir", "fsync"):
        fail_at(monkeypatch, cache.os, name, 1, errno.EROFS)
    assert not build_library("net", FILES).compiled
