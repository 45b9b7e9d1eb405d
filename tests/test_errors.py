"""Each program of tests/error_cases ends in one error, whose text tests/golden/errors keeps."""

import re
import runpy
import shutil
import stat
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import graphc as gx

CASES = Path(__file__).parent / "error_cases"
TEXTS = Path(__file__).parent / "golden" / "errors"
ENVIRONMENT = "tool_chain"  # a right program, run in wrong environments
NAMES = sorted(path.stem for path in CASES.glob("*.py") if path.stem != ENVIRONMENT)
INTERNAL = re.compile(
    r"sympy|Symbol|Relational|Piecewise|Traceback|site-packages|graphc/|0x[0-9a-f]{6}"
)
GCC = shutil.which("gcc")
WRONG_VARIABLES = {
    "compiler_missing": ("CC", "/nonexistent/cc"),
    "march": ("GRAPHC_MARCH", "native -O0"),
    "openmp": ("GRAPHC_OPENMP", "yes"),
    "sanitize": ("GRAPHC_SANITIZE", "memory"),
    "compile_timeout": ("GRAPHC_COMPILE_TIMEOUT", "soon"),
    "omp_num_threads": ("OMP_NUM_THREADS", "many"),
    "build_dir": ("GRAPHC_BUILD_DIR", "/dev/null/builds"),
}


def error_of(case: str) -> str:
    """How Python would show the end of the program: the exception's name and its message."""
    with pytest.raises((gx.UserError, gx.ToolchainError)) as caught:
        runpy.run_path(str(CASES / f"{case}.py"))
    return f"{type(caught.value).__name__}: {caught.value}\n"


@pytest.mark.parametrize("case", NAMES)
def test_a_bad_program(case, golden):
    text = error_of(case)
    assert re.match(rf"UserError: {case}\.py:\d+: ", text), text
    assert not INTERNAL.search(text), text
    assert len(text.splitlines()) >= 2, "a remedy is missing"
    golden(f"errors/{case}", text)


@pytest.mark.parametrize("case", WRONG_VARIABLES)
def test_a_bad_environment(case, golden, monkeypatch, tmp_path):
    monkeypatch.setenv("GRAPHC_BUILD_DIR", str(tmp_path / "builds"))
    monkeypatch.setenv(*WRONG_VARIABLES[case])
    text = error_of(ENVIRONMENT)
    assert WRONG_VARIABLES[case][0] in text
    assert not INTERNAL.search(text), text
    golden(f"errors/environment_{case}", text)
    monkeypatch.undo()
    program = runpy.run_path(str(CASES / f"{ENVIRONMENT}.py"))["program"]
    np.testing.assert_array_equal(program(x=np.arange(4, dtype=np.float32))[0], [0, 1, 4, 9])


def install(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.skipif(GCC is None, reason="gcc is not installed")
def test_a_compiler_that_fails_on_a_source(golden, monkeypatch, tmp_path):
    refuse = "echo 'cc: no space left' >&2; exit 1"
    script = f'case " $* " in *" -c run.c "*) {refuse};; esac\nexec {GCC} "$@"'
    monkeypatch.setenv("CC", install(tmp_path / "cc", script))
    monkeypatch.setenv("GRAPHC_BUILD_DIR", str(tmp_path / "builds"))
    monkeypatch.setenv("GRAPHC_OPENMP", "0")
    text = error_of(ENVIRONMENT)
    source = Path(re.search(r"source: +(\S+)", text)[1])
    assert source.parent.parent == tmp_path / "builds"
    assert "restrict" in source.read_text()
    text = re.sub(r"failed-[0-9a-f]{16}", "failed-0123456789abcdef", text)
    golden("errors/environment_compiler_failing", text.replace(str(tmp_path), "/home/user"))


def test_a_compiler_that_fails_at_once(golden, monkeypatch, tmp_path):
    monkeypatch.setenv("CC", install(tmp_path / "cc", 'echo "cc: licence expired" >&2; exit 1'))
    text = error_of(ENVIRONMENT)
    assert text.startswith("ToolchainError: ")
    golden("errors/environment_compiler_broken", text.replace(str(tmp_path), "/home/user"))


def test_every_golden_text_has_its_case():
    environments = [*WRONG_VARIABLES, "compiler_failing", "compiler_broken"]
    expected = {*NAMES, *(f"environment_{case}" for case in environments)}
    assert {path.stem for path in TEXTS.glob("*.txt")} == expected


# A program after a call that failed


@pytest.fixture(scope="module")
def make_step() -> Callable[[], gx.TrainingStep]:
    x = gx.input("x", (6, 4))
    labels = gx.input("labels", (6,), "int64")
    weight = gx.parameter("weight", (3, 4))
    norm = gx.layers.BatchNorm2d("norm", 3)
    logits = gx.reshape(gx.dense(x, weight), (6, 3, 1, 1))
    loss = gx.cross_entropy(gx.reshape(norm(logits, training=True), (6, 3)), labels)
    return lambda: gx.training_step(loss, gx.SGD(0.1, momentum=0.9), seed=3)


@pytest.fixture
def batch(seeded) -> dict[str, np.ndarray]:
    x = seeded.standard_normal((6, 4)).astype(np.float32)
    return {"x": x, "labels": seeded.integers(0, 3, 6)}


BAD_FEEDS: dict[str, Callable[[np.ndarray, np.ndarray], dict[str, object]]] = {
    "nothing": lambda x, labels: {},
    "no labels": lambda x, labels: {"x": x},
    "another name": lambda x, labels: {"x": x, "labels": labels, "y": x},
    "fewer rows": lambda x, labels: {"x": x[:5], "labels": labels},
    "transposed": lambda x, labels: {"x": x.T, "labels": labels},
    "no rows": lambda x, labels: {"x": x[:0], "labels": labels},
    "float64": lambda x, labels: {"x": x.astype("float64"), "labels": labels},
    "other byte order": lambda x, labels: {"x": x.astype(">f4"), "labels": labels},
    "labels in other byte order": lambda x, labels: {"x": x, "labels": labels.astype(">i8")},
    "complex": lambda x, labels: {"x": x.astype("complex64"), "labels": labels},
    "objects": lambda x, labels: {"x": x.astype(object), "labels": labels},
    "None": lambda x, labels: {"x": None, "labels": labels},
    "a graph value": lambda x, labels: {"x": gx.input("x", (6, 4)), "labels": labels},
    "floating labels": lambda x, labels: {"x": x, "labels": labels.astype("float32")},
    "small labels": lambda x, labels: {"x": x, "labels": labels.astype("int32")},
    "a label too large": lambda x, labels: {"x": x, "labels": labels + 3},
    "a negative label": lambda x, labels: {"x": x, "labels": labels - 3},
    "the least label": lambda x, labels: {"x": x, "labels": np.full(6, -(2**63))},
}  # fmt: skip


def snapshot(step: gx.TrainingStep) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in (step.parameters | step.states).items()}


def test_a_failed_call_changes_nothing(make_step, batch):
    step, untroubled = make_step(), make_step()
    step(**batch)
    untroubled(**batch)
    before = snapshot(step)
    for name, make in BAD_FEEDS.items():
        with pytest.raises(gx.UserError) as caught:
            step(**make(batch["x"], batch["labels"]))
        assert str(caught.value).startswith("test_errors.py:"), name
        assert not INTERNAL.search(str(caught.value)), name
        np.testing.assert_equal(snapshot(step), before, err_msg=name)
    np.testing.assert_array_equal(step(**batch), untroubled(**batch))
    np.testing.assert_equal(snapshot(step), snapshot(untroubled))


def test_a_failed_definition_leaves_no_trace():
    @gx.op
    def doubled(a, *, wrong):
        i = gx.axes("i")
        return gx.define[i](2 * a[(i[0], i[0]) if wrong else i])

    x = gx.input("x", (5,))
    for _ in range(2):
        with pytest.raises(gx.UserError, match="one index a dimension"):
            doubled(x, wrong=True)
        value = gx.evaluate([doubled(x, wrong=False)], {x: np.arange(5)})[0]
        np.testing.assert_array_equal(value, 2 * np.arange(5))


# Layouts of feeds


def unaligned(array: np.ndarray) -> np.ndarray:
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
    view = raw.view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned
    return view


def read_only(array: np.ndarray) -> np.ndarray:
    view = array.copy()
    view.flags.writeable = False
    return view


LAYOUTS: dict[str, Callable[[np.ndarray], object]] = {
    "columns first": np.asfortranarray,
    "negative strides": lambda a: np.flip(np.flip(a).copy()),
    "every third": lambda a: np.repeat(a, 3, axis=0)[::3],
    "broadcast": lambda a: np.broadcast_to(a, (2, *a.shape))[1],
    "read-only": read_only,
    "unaligned": unaligned,
    "native order by name": lambda a: a.astype(a.dtype.newbyteorder("=")),
    "a subclass": lambda a: a.view(np.recarray),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_result(layout, make_step, batch):
    expected = make_step()(**batch)
    fed = {name: LAYOUTS[layout](array) for name, array in batch.items()}
    np.testing.assert_array_equal(make_step()(**fed), expected)
    for name, array in batch.items():
        np.testing.assert_array_equal(fed[name], array)


def test_labels_may_be_a_list(make_step, batch):
    fed = {"x": batch["x"], "labels": batch["labels"].tolist()}
    np.testing.assert_array_equal(make_step()(**fed), make_step()(**batch))


# Dimensions without elements


@pytest.mark.parametrize("shape", [s for s in product((0, 2), repeat=3) if 0 in s] + [(0,), 0])
def test_no_dimension_may_be_zero(shape):
    makers: list[Callable[[], object]] = [
        lambda: gx.input("x", shape),
        lambda: gx.parameter("x", shape),
        lambda: gx.state("x", shape, 0.0),
        lambda: gx.constant(np.zeros(shape)),
        lambda: gx.reshape(gx.input("x", (2, 2)), shape),
        lambda: gx.broadcast_to(gx.input("x", ()), shape),
    ]
    for make in makers:
        with pytest.raises(gx.UserError, match="the shape is "):
            make()


def test_no_slice_may_be_empty():
    x = gx.input("x", (4, 4))
    for key in (slice(2, 2), slice(5, None), (slice(None), slice(3, 1))):
        with pytest.raises(gx.UserError, match="nothing is left of dimension"):
            x[key]


def test_an_array_beyond_the_address_space():
    with pytest.raises(gx.UserError, match="too many elements"):
        gx.input("x", (2**31, 2**31))
