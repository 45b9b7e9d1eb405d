"""Sources become a library once, found again by its ingredients and never loaded damaged."""

import ctypes
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from graphc.backends.c import build, cache
from graphc.backends.c.build import build_library, load
from graphc.backends.c.cache import Recipe, build_root, is_intact, key_lock, net_name
from graphc.backends.c.toolchain import find_toolchain
from graphc.errors import CompilerBug, ToolchainError, UserError
from graphc.ir.source import SourceFile

GCC = shutil.which("gcc")
pytestmark = pytest.mark.skipif(GCC is None, reason="gcc is not installed")

CHECKOUT = Path(build.__file__).parents[3]
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

    def install(text: str) -> None:
        path = tmp_path / "cc"
        path.write_text("#!/bin/sh\n" + text.replace("{gcc}", f'exec {GCC} "$@"') + "\n")
        path.chmod(0o755)
        monkeypatch.setenv("CC", str(path))

    return install


def on_compile(text: str, flag: str = "-c") -> str:
    return f'case " $* " in *" {flag} "*) {text};; esac\n{{gcc}}'


def value(library: ctypes.CDLL, name: str, x: float) -> float:
    function = library[name]
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
    return function(x)


def entries(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.name != ".locks")


def recipe_of() -> Recipe:
    return Recipe("net", FILES, find_toolchain(), ("-lm",))


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 20
    while not path.exists() or not path.read_text().strip():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)
    return path.read_text()


# Building and finding


def test_a_library_is_compiled_once_and_runs(root):
    first = build_library("Net", FILES)
    again = build_library("Net", FILES)
    assert (first.compiled, again.compiled) == (True, False)
    assert first.path == again.path
    assert first.path == first.folder / "net.so"
    assert first.folder.parent == root
    assert first.seconds > again.seconds > 0
    library = load(again.path)
    assert value(library, "twice", 21.0) == 42.0
    assert value(library, "thrice", 2.0) == 6.0


def test_an_entry_holds_the_sources_the_library_and_a_manifest(root):
    folder = build_library("net", FILES).folder
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["manifest.json", "net.h", "net.so", "thrice.c", "twice.c"]
    assert (folder / "twice.c").read_text() == TWICE.text
    manifest = json.loads((folder / "manifest.json").read_text())
    assert folder.name == f"net-{manifest['key'][:16]}"
    assert manifest["toolchain"]["command"] == [GCC]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert entries(root) == [folder.name]


def test_progress_counts_every_source_and_the_link():
    seen: list[tuple[int, int, str]] = []
    build_library("net", FILES, jobs=2, progress=lambda *step: seen.append(step))
    assert [done for done, _, _ in seen] == [1, 2, 3]
    assert {total for _, total, _ in seen} == {3}
    assert {name for _, _, name in seen[:2]} == {"twice.c", "thrice.c"}
    assert seen[2][2] == "net.so"
    build_library("net", FILES, progress=lambda *_: pytest.fail("a hit has no steps"))


def test_the_same_sources_give_the_same_bytes(monkeypatch, tmp_path):
    first = build_library("net", FILES, jobs=1).path.read_bytes()
    monkeypatch.setenv("GRAPHC_BUILD_DIR", str(tmp_path / "other"))
    assert build_library("net", FILES, jobs=4).path.read_bytes() == first


@pytest.mark.parametrize(
    ("net", "name"),
    [
        ("VGG-16", "vgg_16"),
        ("../../etc/passwd", "etc_passwd"),
        ("*/ int system(); /*", "int_system"),
        ("ünïcode", "n_code"),
        ("", "net"),
        ("\0\n", "net"),
        ("x" * 10_000, "x" * 40),
    ],
)
def test_names_from_users_become_plain(net, name):
    assert net_name(net) == name


def test_a_name_that_fights_back_stays_in_the_root(root):
    built = build_library("../../evil name\n", FILES)
    assert built.folder.parent == root
    assert built.path.name == "evil_name.so"


@pytest.mark.parametrize("name", ["../x.c", "a b.c", "x.py", "-o.c", "x", "manifest.json"])
def test_a_bad_source_name_is_our_own_bug(name):
    with pytest.raises(CompilerBug):
        build_library("net", [SourceFile(name, "")])


def test_sources_that_cannot_be_built_are_our_own_bug():
    with pytest.raises(CompilerBug, match="share one name"):
        build_library("net", [TWICE, replace(TWICE, name="TWICE.c")])
    with pytest.raises(CompilerBug, match="no C source"):
        build_library("net", [HEADER])


def test_jobs_must_be_positive():
    with pytest.raises(UserError, match="at least 1"):
        build_library("net", FILES, jobs=0)


# The key


def variants() -> dict[str, Recipe]:
    base = recipe_of()
    tools = base.toolchain

    def tool(**changes: object) -> Recipe:
        return replace(base, toolchain=replace(tools, **changes))

    return {
        "base": base,
        "net": replace(base, net="other"),
        "text": replace(base, files=(HEADER, TWICE, replace(THRICE, text=THRICE.text + "\n"))),
        "header": replace(base, files=(replace(HEADER, text=HEADER.text + "\n"), TWICE, THRICE)),
        "name": replace(base, files=(HEADER, TWICE, replace(THRICE, name="thrise.c"))),
        "order": replace(base, files=(HEADER, THRICE, TWICE)),
        "fewer": replace(base, files=(HEADER, TWICE)),
        "link": replace(base, link=("-lm", "-ldl")),
        "command": tool(command=("/opt/gcc",)),
        "version": tool(version="gcc version 99"),
        "target": tool(target="riscv64-linux-gnu"),
        "flags": tool(flags=(*tools.flags, "-DX")),
        "link_flags": tool(link_flags=(*tools.link_flags, "-s")),
        "features": tool(features=tools.features[1:]),
    }


def test_every_ingredient_changes_the_key(monkeypatch):
    keys = {name: recipe.key for name, recipe in variants().items()}
    monkeypatch.setattr(cache, "graphc_version", lambda: "99.0")
    keys["graphc"] = recipe_of().key
    assert len(set(keys.values())) == len(keys)
    assert all(len(key) == 64 for key in keys.values())


def test_the_same_ingredients_give_the_same_key():
    assert recipe_of().key == recipe_of().key


# Damage


def test_all_damage_is_seen_before_loading():
    built = build_library("net", FILES)
    recipe = recipe_of()
    seed = 7
    print(f"seed {seed}")
    draw = random.Random(seed)
    for path in sorted(built.folder.iterdir()):
        whole = path.read_bytes()
        harms = [whole[: len(whole) * part // 20] for part in range(20)]
        for _ in range(40):
            at = draw.randrange(len(whole))
            harms.append(
                whole[:at] + bytes([whole[at] ^ (1 << draw.randrange(8))]) + whole[at + 1 :]
            )
        harms += [whole + b"\0", bytes(len(whole))]
        for harm in harms:
            path.write_bytes(harm)
            assert not is_intact(built.folder, recipe), path.name
            if path.name == "net.so":
                with pytest.raises(ToolchainError, match="damaged"):
                    load(built.path)
        path.write_bytes(whole)
        assert is_intact(built.folder, recipe)


@pytest.mark.parametrize("name", ["net.so", "manifest.json", "twice.c", "net.h"])
@pytest.mark.parametrize("harm", ["cut", "flip", "delete", "empty"])
def test_a_damaged_entry_is_built_again(root, name, harm):
    built = build_library("net", FILES)
    path = built.folder / name
    whole = path.read_bytes()
    if harm == "delete":
        path.unlink()
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 16]) + whole[middle + 1 :]
        path.write_bytes({"cut": whole[:-3], "flip": flipped, "empty": b""}[harm])
    again = build_library("net", FILES)
    assert again.compiled
    assert again.path == built.path
    assert path.read_bytes() == whole
    assert entries(root) == [built.folder.name]


def test_files_swapped_between_entries_are_seen(root):
    one, two = build_library("net", FILES), build_library("net", [HEADER, TWICE])
    shutil.copy(one.path, two.path)
    assert build_library("net", [HEADER, TWICE]).compiled
    shutil.rmtree(two.folder)
    shutil.copytree(one.folder, two.folder)
    with pytest.raises(ToolchainError, match="damaged"):
        load(two.path)
    assert build_library("net", [HEADER, TWICE]).compiled
    assert not hasattr(load(two.path), "thrice")


def test_a_damaged_library_in_use_goes_on_running():
    built = build_library("net", FILES)
    library = load(built.path)
    (built.folder / "manifest.json").write_text("{}")
    assert build_library("net", FILES).compiled
    assert value(library, "twice", 2.0) == 4.0


def test_something_else_with_the_name_of_an_entry_is_replaced(root, tmp_path):
    folder = build_library("net", FILES).folder
    kept = tmp_path / "kept"
    folder.rename(kept)
    folder.write_text("a file")
    assert build_library("net", FILES).compiled
    shutil.rmtree(folder)
    folder.symlink_to(tmp_path / "nowhere")
    assert build_library("net", FILES).compiled
    assert not folder.is_symlink()


def test_load_of_a_missing_library_is_an_error(root):
    with pytest.raises(ToolchainError, match=r"gone\.so"):
        load(root / "gone.so")


def test_a_sound_entry_that_is_no_library_is_an_error(fake_cc):
    fake_cc(on_compile("for last; do :; done; echo junk > net.so; exit 0", "-shared"))
    built = build_library("net", FILES)
    with pytest.raises(ToolchainError, match="cannot load"):
        load(built.path)


# Several processes and threads

CHILD = """
import sys
from pathlib import Path
from graphc.backends.c.build import build_library, load
from graphc.ir.source import SourceFile
names = ("net.h", "twice.c", "thrice.c")
files = [SourceFile(name, (Path(sys.argv[1]) / name).read_text()) for name in names]
built = build_library("net", files)
assert load(built.path).twice
print(built.compiled)
"""


def child(tmp_path: Path) -> subprocess.Popen[str]:
    sources = tmp_path / "sources"
    sources.mkdir(exist_ok=True)
    for file in FILES:
        (sources / file.name).write_text(file.text)
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(sources)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_eight_processes_compile_a_cold_key_once(root, tmp_path, fake_cc):
    log = tmp_path / "log"
    fake_cc(on_compile(f'echo "$*" >> {log}; sleep 0.5'))
    processes = [child(tmp_path) for _ in range(8)]
    answers = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, answers
    assert sorted(out.strip() for out, _ in answers) == ["False"] * 7 + ["True"]
    assert len(log.read_text().splitlines()) == 2  # one for each C source
    assert len(entries(root)) == 1


def test_eight_threads_compile_a_cold_key_once(root, tmp_path, fake_cc):
    log = tmp_path / "log"
    fake_cc(on_compile(f'echo "$*" >> {log}; sleep 0.2'))
    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda: answers.append(build_library("net", FILES).compiled))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(answers) == [False] * 7 + [True]
    assert len(log.read_text().splitlines()) == 2


def test_the_death_of_the_lock_holder_blocks_nobody(root, tmp_path, fake_cc):
    slow, pid = tmp_path / "slow", tmp_path / "pid"
    slow.touch()
    fake_cc(on_compile(f"if [ -e {slow} ]; then echo $$ >> {pid}; exec sleep 60; fi"))
    holder = child(tmp_path)
    wait_for(pid)
    slow.unlink()
    holder.kill()
    holder.communicate(timeout=20)
    started = time.monotonic()
    built = build_library("net", FILES)
    assert built.compiled
    assert time.monotonic() - started < 10
    assert entries(root) == [built.folder.name]  # what the holder had begun is gone
    for orphan in pid.read_text().split():
        os.kill(int(orphan), signal.SIGKILL)


def test_a_lock_that_is_never_given_back_is_not_waited_for_for_ever(monkeypatch, root):
    recipe = recipe_of()
    monkeypatch.setenv("GRAPHC_COMPILE_TIMEOUT", "2")
    with key_lock(build_root(), recipe.key) as held:
        assert held
        answers: list[bool] = []
        other = threading.Thread(
            target=lambda: answers.append(build_library("net", FILES).compiled)
        )
        other.start()
        other.join(timeout=20)
    assert answers == [True]


def test_an_entry_published_meanwhile_is_taken(root, monkeypatch):
    """Without a lock two builders may publish one key; the second finds the name taken."""
    monkeypatch.setattr(build, "is_intact", lambda entry, recipe: False)
    monkeypatch.setattr(build, "discard_leftovers", lambda root, recipe: None)
    first = build_library("net", FILES)
    inode = first.folder.stat().st_ino
    assert build_library("net", FILES).compiled
    assert first.folder.stat().st_ino == inode
    first.path.write_bytes(b"damaged")
    build_library("net", FILES)
    assert is_intact(first.folder, recipe_of())
    assert entries(root) == [first.folder.name]
