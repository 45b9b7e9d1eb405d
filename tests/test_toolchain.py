"""The compiler that is found, what is asked of it, and what is said when it cannot be used."""

import shutil
import stat
import time
from pathlib import Path

import pytest

from graphc.backends.c import toolchain
from graphc.backends.c.toolchain import compile_timeout, find_command, find_toolchain
from graphc.errors import ToolchainError, UserError

GCC = shutil.which("gcc")
needs_gcc = pytest.mark.skipif(GCC is None, reason="gcc is not installed")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("CC", "GRAPHC_MARCH", "GRAPHC_SANITIZE", "GRAPHC_COMPILE_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GRAPHC_OPENMP", "0")  # spares most tests the run of a program


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@needs_gcc
def test_flags_of_a_plain_build():
    found = find_toolchain()
    assert found.command == (GCC,)
    assert {"-std=c11", "-O3", "-march=native", "-fPIC", "-ffp-contract=fast"} <= set(found.flags)
    assert {"-fno-math-errno", "-fno-trapping-math"} <= set(found.flags)
    assert {"-Wall", "-Wextra", "-Werror"} <= set(found.flags)
    assert not any("fast-math" in flag or "Ofast" in flag for flag in found.flags)
    assert not any(flag.startswith("-O") or "math" in flag for flag in found.link_flags)
    assert "gcc version" in found.version
    assert found.target
    assert found.features
    assert found.simd in ("avx512_bf16", "avx512", "avx2", "neon", "scalar")
    assert found.missing == ()


@needs_gcc
def test_openmp_follows_the_machine_or_the_user(monkeypatch):
    assert not find_toolchain().openmp
    monkeypatch.setenv("GRAPHC_OPENMP", "1")
    assert find_toolchain().openmp
    assert "-fopenmp" in find_toolchain().link_flags
    monkeypatch.delenv("GRAPHC_OPENMP")
    assert find_toolchain().openmp


@needs_gcc
def test_without_libgomp_the_build_has_no_threads(monkeypatch, tmp_path):
    refuse = f'case " $* " in *" -fopenmp "*) exit 1;; esac; exec {GCC} "$@"'
    monkeypatch.setenv("CC", str(script(tmp_path / "cc", refuse)))
    monkeypatch.delenv("GRAPHC_OPENMP")
    assert not find_toolchain().openmp
    monkeypatch.setenv("GRAPHC_OPENMP", "1")
    with pytest.raises(ToolchainError, match="GRAPHC_OPENMP is 1"):
        find_toolchain()


@needs_gcc
def test_an_openmp_program_that_fails_counts_as_no_openmp(monkeypatch, tmp_path):
    crash = (
        'case " $* " in *" -fopenmp "*) for last; do :; done; '
        'printf "#!/bin/sh\\nexit 1\\n" > "$last"; chmod +x "$last"; exit 0;; esac\n'
        f'exec {GCC} "$@"'
    )
    monkeypatch.setenv("CC", str(script(tmp_path / "cc", crash)))
    monkeypatch.delenv("GRAPHC_OPENMP")
    assert not find_toolchain().openmp


@needs_gcc
def test_the_probes_run_once_per_process(monkeypatch, tmp_path):
    log = tmp_path / "log"
    monkeypatch.setenv("CC", str(script(tmp_path / "cc", f'echo x >> {log}; exec {GCC} "$@"')))
    first = find_toolchain()
    assert find_toolchain() is first
    assert log.read_text() == "x\n"


@needs_gcc
def test_a_compiler_replaced_under_us_is_asked_again(monkeypatch, tmp_path):
    path = script(tmp_path / "cc", f'exec {GCC} "$@"')
    monkeypatch.setenv("CC", str(path))
    assert "13.9.9" not in find_toolchain().version
    newer = f"{GCC} \"$@\" 2>&1 >&3 | sed 's/gcc version.*/gcc version 13.9.9/' >&2"
    script(path, f"exec 3>&1; {newer}")
    assert find_toolchain().version == "gcc version 13.9.9"


@needs_gcc
@pytest.mark.skipif("x86_64" not in toolchain.os.uname().machine, reason="haswell is an x86-64")
def test_march_changes_flags_features_and_simd(monkeypatch):
    native = find_toolchain()
    monkeypatch.setenv("GRAPHC_MARCH", "haswell")
    haswell = find_toolchain()
    assert "-march=haswell" in haswell.flags
    assert "-march=native" not in haswell.flags
    assert haswell.simd == "avx2"
    assert haswell.features != native.features
    monkeypatch.setenv("GRAPHC_MARCH", "x86-64")
    assert find_toolchain().simd == "scalar"


@needs_gcc
@pytest.mark.skipif("x86_64" not in toolchain.os.uname().machine, reason="knm is an x86-64")
def test_instructions_that_this_processor_lacks_are_listed(monkeypatch):
    monkeypatch.setenv("GRAPHC_MARCH", "knm")  # the only processor that ever had AVX512-4FMAPS
    assert "__AVX5124FMAPS__" in find_toolchain().missing


@needs_gcc
def test_sanitizers_replace_the_optimiser(monkeypatch):
    monkeypatch.setenv("GRAPHC_SANITIZE", "undefined, address")
    found = find_toolchain()
    assert "-fsanitize=address,undefined" in found.flags
    assert "-fsanitize=address,undefined" in found.link_flags
    assert {"-g", "-fno-var-tracking", "-O1", "-fno-sanitize-recover=all"} <= set(found.flags)
    assert "-O3" not in found.flags


@needs_gcc
@pytest.mark.parametrize(
    ("variable", "value", "legal"),
    [
        ("GRAPHC_MARCH", "pentium99", "native"),
        ("GRAPHC_MARCH", "native -ffast-math", "haswell"),
        ("GRAPHC_MARCH", "-fplugin=evil.so", "haswell"),
        ("GRAPHC_OPENMP", "yes", "0 (one thread) and 1 (threads)"),
        ("GRAPHC_SANITIZE", "addres", "address, thread, undefined"),
        ("GRAPHC_SANITIZE", "address,thread", "exclude each other"),
        ("GRAPHC_SANITIZE", "address,,", "address, thread, undefined"),
        ("GRAPHC_COMPILE_TIMEOUT", "soon", "above 0"),
        ("CC", "gcc 'unbalanced", "balanced quotes"),
        ("CC", "gcc -ffast-math", "without -ffast-math"),
        ("CC", "gcc -Ofast", "without -ffast-math"),
    ],
)
def test_garbage_names_the_variable_the_value_and_what_is_legal(
    monkeypatch, variable, value, legal
):
    monkeypatch.setenv(variable, value)
    toolchain._target.cache_clear()  # a memo would answer without reading the time limit
    toolchain._toolchain.cache_clear()
    with pytest.raises(UserError) as caught:
        find_toolchain()
    assert variable in str(caught.value)
    assert repr(value) in str(caught.value)
    assert legal in str(caught.value)


@pytest.mark.parametrize("value", ["0", "-3", "nan", "inf", "1e999", "ten"])
def test_illegal_timeouts(monkeypatch, value):
    monkeypatch.setenv("GRAPHC_COMPILE_TIMEOUT", value)
    with pytest.raises(UserError, match="GRAPHC_COMPILE_TIMEOUT"):
        compile_timeout()


def test_legal_timeouts(monkeypatch):
    assert compile_timeout() == 600
    monkeypatch.setenv("GRAPHC_COMPILE_TIMEOUT", " 2.5 ")
    assert compile_timeout() == 2.5
    monkeypatch.setenv("GRAPHC_COMPILE_TIMEOUT", "")
    assert compile_timeout() == 600


def test_no_compiler_at_all_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match="looked for gcc, cc and clang") as caught:
        find_command()
    assert "apt-get install gcc" in str(caught.value)
    assert "xcode-select --install" in str(caught.value)


@pytest.mark.parametrize("value", ["no-such-compiler", "/no/such/gcc", "gcc; rm -rf x", "$(gcc)"])
def test_a_cc_that_is_no_program_is_named(monkeypatch, tmp_path, value):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", value)
    with pytest.raises(ToolchainError) as caught:
        find_command()
    assert repr(value) in str(caught.value)


def test_cc_that_may_not_be_executed(monkeypatch, tmp_path):
    (tmp_path / "cc").write_text("not a program")
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    with pytest.raises(ToolchainError, match="not a program that can be run"):
        find_command()


def test_the_path_is_searched_for_gcc_then_cc_then_clang(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("clang", "cc", "gcc"):
        path = script(tmp_path / name, "exit 0")
        assert find_command() == (str(path),)


def test_cc_is_split_like_a_shell_does(monkeypatch, tmp_path):
    path = script(tmp_path / "my tools" / "gcc", "exit 0")
    monkeypatch.setenv("CC", str(path))
    assert find_command() == (str(path),)
    monkeypatch.setenv("CC", f"'{path}' -m64 \"-DX=1 2\"")
    assert find_command() == (str(path), "-m64", "-DX=1 2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exit 0", "does not answer like gcc or clang"),
        ("echo broken >&2; exit 7", "exit code 7"),
        ("sleep 60", "did not end within 0.3 s"),
    ],
)
def test_a_compiler_that_does_not_answer(monkeypatch, tmp_path, text, message):
    monkeypatch.setenv("CC", str(script(tmp_path / "cc", text)))
    monkeypatch.setenv("GRAPHC_COMPILE_TIMEOUT", "0.3")
    started = time.monotonic()
    with pytest.raises(ToolchainError, match=message) as caught:
        find_toolchain()
    assert str(tmp_path / "cc") in str(caught.value)
    assert time.monotonic() - started < 20


def test_a_compiler_of_another_machine(monkeypatch, tmp_path):
    path = tmp_path / "cc"
    path.write_bytes(b"\x7fELF garbage")
    path.chmod(0o755)
    monkeypatch.setenv("CC", str(path))
    with pytest.raises(ToolchainError, match="cannot run"):
        find_toolchain()


def test_clang_is_understood(monkeypatch, tmp_path):
    """A recorded answer of clang, whose driver line and version differ from those of gcc."""
    driver = '"-cc1" "-triple" "x86_64" "-target-cpu" "znver3" "-target-feature" "+avx2"'
    answer = (
        "cat >&2 <<'X'\nDebian clang version 14.0.6\nTarget: x86_64-pc-linux-gnu\n"
        f' "/usr/lib/llvm-14/bin/clang" {driver} "-tune-cpu" "znver3" "-x" "c" "-"\nX\n'
        "printf '#define __AVX2__ 1\\n#define __FMA__ 1\\n#define __VERSION__ \"x\"\\n'"
    )
    monkeypatch.setenv("CC", str(script(tmp_path / "clang", answer)))
    found = find_toolchain()
    assert found.version == "Debian clang version 14.0.6"
    assert found.target == "x86_64-pc-linux-gnu"
    assert found.simd == "avx2"
    assert {"-target-cpu znver3", "-target-feature +avx2", "__AVX2__"} <= set(found.features)
