"""What is shown of a network: stages as documents and text, layers counted by their equations."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import graphc as gx
from graphc.backends.cuda.run import DeviceProgram
from graphc.cli import main
from graphc.errors import Location, UserError
from graphc.inspect import doctor, doctor_cuda
from graphc.inspect.declaration import statement
from graphc.inspect.highlight import paint_c
from graphc.inspect.receptive import Field, receptive_field
from graphc.inspect.select import select
from graphc.inspect.show import STAGES, show, show_document
from graphc.inspect.subject import Subject, file_subject, model_subject, training_subject
from graphc.inspect.summary import layer_summaries, multiplications, summarise
from graphc.inspect.table import amount, binary_bytes, table
from graphc.ir.layout import blocked, layout_text
from graphc.train.network import build_model
from graphc.train.optimizers import SGD


@pytest.fixture(scope="module")
def subject() -> Subject:
    return model_subject(gx.models.lenet5(), 8, SGD(0.1, momentum=0.9))


def plain(text: str) -> str:
    return text


@pytest.mark.parametrize("stage", [None, *STAGES])
@pytest.mark.parametrize("node", [None, "conv2"])
def test_every_stage_is_text_and_json(
    subject: Subject, stage: str | None, node: str | None
) -> None:
    text = show(subject, stage, node, False, plain)
    assert text.strip() and "None" not in text
    document = json.loads(show(subject, stage, node, True, plain))
    assert document["network"] == "lenet5"
    assert document == json.loads(json.dumps(show_document(subject, stage, node)))


def test_the_graph_has_the_formula_of_every_op(subject: Subject) -> None:
    nodes = show_document(subject, "graph", "conv2")["nodes"]
    formulas = [n["formula"] for n in nodes if n["formula"]]
    assert formulas[0] == (
        "convolution[n, k, i, j] = sum over c, r, s of "
        "conv2.weight[k, c, r, s]*max_pool[n, c, i + r, j + s]"
    )
    assert len(formulas) == 2


def test_gradients_of_a_layer(subject: Subject) -> None:
    document = show_document(subject, "backward", "conv2")
    formulas = {n["label"]: n["formula"] for n in document["gradients"]}
    assert formulas["d conv2.weight"].endswith(
        "d_convolution[n, k, i, j]*max_pool[n, c, i + r, j + s]"
    )
    assert formulas["d conv2.bias"].startswith("d_conv2.bias[k] = sum over n, i, j of ")
    assert document["results"] == {"conv2.weight": "d conv2.weight", "conv2.bias": "d conv2.bias"}


def test_every_path_of_a_value_used_twice_is_shown() -> None:
    x = gx.input("x", (5,))
    w = gx.parameter("w", (5,))
    loss = gx.sum(gx.multiply(w, x) + gx.exp(w))
    document = show_document(training_subject("net", [loss], SGD()), "backward", "w")
    labels = [n["label"] for n in document["gradients"]]
    assert labels.count("d w") == 2
    assert labels[-1] == "d w (2 paths)"


def test_the_schedule_names_every_buffer_and_the_arena(subject: Subject) -> None:
    document = show_document(subject, "schedule", None)
    schedule = subject.generated.schedule
    assert [k["name"] for k in document["kernels"]] == [k.name for k in schedule.kernels]
    assert document["arena_bytes"] == schedule.arena_bytes
    names = {b["name"] for b in document["buffers"]}
    for kernel in document["kernels"]:
        assert kernel["reason"] and kernel["writes"]
        assert names.issuperset(kernel["reads"]) and names.issuperset(kernel["writes"])


def test_a_kernels_source_stands_under_its_formula(subject: Subject) -> None:
    kernel = show_document(subject, "kernels", "conv2_forward")["kernels"][0]
    (file,) = show_document(subject, "source", "conv2_forward")["files"]
    assert file["name"] == kernel["file"] == "conv2_forward.c"
    assert kernel["flops"] > 2 * 8 * 16 * 10 * 10 * 6 * 5 * 5
    assert all(f"// {formula}" in file["text"] for formula in kernel["formulas"])


def test_whole_sources_include_the_shared_files(subject: Subject) -> None:
    names = [f["name"] for f in show_document(subject, "source", None)["files"]]
    assert "graphc.h" in names and "run.c" in names


@pytest.mark.parametrize(
    "name", ["conv2", "conv2.weight", "conv2_forward", "d conv2.weight", "max_pool"]
)
def test_names_that_are_found(subject: Subject, name: str) -> None:
    found = select(subject, name)
    assert found.kernels
    assert found.nodes or found.gradients


def test_a_name_that_is_not_found(subject: Subject) -> None:
    with pytest.raises(UserError, match="did you mean conv2") as caught:
        select(subject, "conv2_")
    assert "fc3" in str(caught.value)


def test_a_file_without_a_loss_has_no_gradients(tmp_path: Path) -> None:
    path = tmp_path / "forward.py"
    path.write_text(
        "import graphc as gx\nx = gx.input('x', (4, 6))\noutputs = gx.relu(\n    x + 1\n)\n"
    )
    subject = file_subject(str(path), SGD())
    document = show_document(subject, None, "relu")
    assert document["declared"] == [
        {"location": "forward.py:3", "text": "outputs = gx.relu(\n    x + 1\n)"}
    ]
    assert document["gradients"] == [] and document["files"]
    with pytest.raises(UserError, match="has no gradients"):
        show_document(subject, "backward", None)


def test_a_loss_without_parameters_has_the_gradient_of_its_input(tmp_path: Path) -> None:
    path = tmp_path / "energy.py"
    path.write_text("import graphc as gx\nx = gx.input('x', (4,))\nloss = gx.sum(gx.square(x))\n")
    document = show_document(file_subject(str(path), SGD()), "backward", None)
    assert document["results"].keys() == {"x"}


def test_a_statement_of_a_file_that_is_gone() -> None:
    assert statement(Location("gone.py", 3)) == ""


def test_sources_are_plain_where_there_is_no_terminal() -> None:
    assert paint_c("int x;\n") == "int x;\n"


def test_sources_are_coloured_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in paint_c("int x;\n")
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint_c("int x;\n") == "int x;\n"


def test_vgg16_is_counted_from_its_equations() -> None:
    layers = {layer.name: layer for layer in layer_summaries(gx.models.vgg16())}
    assert sum(layer.parameters for layer in layers.values()) == 138_357_544
    assert sum(layer.macs for layer in layers.values()) == 15_470_264_320
    assert layers["conv1_2"].field == Field((5, 5), (1, 1))
    assert layers["conv5_3"].field == Field((196, 196), (16, 16))
    assert layers["pool5"].field == Field((212, 212), (32, 32))
    assert layers["fc6"].field == Field((224, 224), None)
    assert layers["pool5"].shape == (512, 7, 7)


def test_a_summary_ends_with_its_totals() -> None:
    text = summarise(gx.models.lenet5(), False)
    assert text.startswith("lenet5 on one image of 1x32x32")
    total = next(line for line in text.splitlines() if line.startswith("total"))
    assert total.split() == ["total", "61,706", "416.52", "k"]


def test_receptive_fields_follow_from_the_reads() -> None:
    x = gx.input("x", (1, 2, 40, 50))
    w = gx.parameter("w", (3, 2, 3, 5))
    y = gx.conv2d(x, w, stride=(2, 1), dilation=(1, 3))
    assert receptive_field(y, x) == Field((3, 13), (2, 1))
    both = gx.max_pool2d(y, 2) + gx.mean_pool2d(y, 2)
    assert receptive_field(both, x) == Field((5, 14), (4, 2))
    assert receptive_field(gx.sum(y), x) == Field((39, 50), None)
    assert receptive_field(gx.square(w), x) is None


def test_only_sums_of_products_multiply() -> None:
    x = gx.input("x", (1, 2, 8, 8))
    assert multiplications(gx.mean_pool2d(x, 2)) == 0
    assert multiplications(gx.relu(x)) == 0
    w = gx.parameter("w", (3, 2, 3, 3))
    assert multiplications(gx.conv2d(x, w)) == 3 * 2 * 9 * 36


def test_the_doctor_names_a_remedy_for_whatever_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_has_module", lambda name: False)
    monkeypatch.setattr(doctor_cuda, "driver_version", lambda: None)
    monkeypatch.setattr(doctor_cuda, "find_disassembler", lambda: None)
    checks = doctor.examine()
    for check in checks:
        assert bool(check.fix) == ("missing" in check.found), check
    assert "fix: pip install" in doctor.report(checks)


def test_the_doctor_reports_a_bad_build_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv("GRAPHC_BUILD_DIR", str(folder))
    check = next(c for c in doctor.examine() if c.name == "build folder")
    assert check.needed and check.fix


def test_tables_and_amounts() -> None:
    assert table(["a", "b:"], [["x", "10"], ["long", "7"]]) == ["a      b", "x     10", "long   7"]
    assert [amount(n) for n in (999, 15_470_264_320)] == ["999", "15.47 G"]
    assert [binary_bytes(n) for n in (5, 2048, 3 << 30)] == ["5 B", "2.0 KiB", "3.0 GiB"]


def shown(*words: str) -> str:
    line = ["show", *words, "--stage", "schedule", "--target", "cuda"]
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_cuda_and_the_memory_that_it_takes() -> None:
    document = json.loads(shown("vgg16", "--image", "32", "--batch", "2", "--json"))
    memory = document["memory"]
    assert memory["total"] == sum(n for kind, n in memory.items() if kind != "total")
    assert memory["arena"] == document["arena_bytes"] > 0
    weights = 4 * build_model("vgg16", {"image": 32}).parameter_count
    assert memory["parameters"] == weights
    assert weights < memory["states"] < weights + 64  # a velocity each, and the learning rate
    text = shown("vgg16", "--image", "32", "--batch", "2")
    assert re.search(rf"^total +{memory['total']:,} ", text, re.MULTILINE)


def test_cuda_sources_are_shown_without_a_gpu() -> None:
    result = CliRunner().invoke(main, ["show", "lenet5", "--node", "conv1", "--target", "cuda"])
    assert result.exit_code == 0, result.output
    assert "---- conv1_forward.cu" in result.stdout
    assert "__global__" in result.stdout
    both = CliRunner().invoke(main, ["show", "lenet5", "--tuned", "--target", "cuda"])
    assert both.exit_code == 1
    assert "leave out --target cuda" in both.output


def test_how_arrays_lie_is_shown() -> None:
    """Between convolutions channels run fastest on a device; what users see is row-major."""
    buffers = json.loads(shown("vgg16", "--image", "32", "--batch", "2", "--json"))["buffers"]
    layouts = {(b["name"], b["type"]): b["layout"] for b in buffers}
    assert layouts["relu", "float32[2, 64, 32, 32]"] == "dimension 1 runs fastest"
    assert layouts["x", "float32[2, 3, 32, 32]"] == "row-major"
    assert layout_text(blocked((2, 32, 3), 1, 16)) == "blocks of 16 along dimension 1"
    assert layout_text(blocked((2, 3, 32), 2, 32)) == "row-major"
    assert layout_text(blocked((2, 32, 1), 1, 32)) == "row-major"


def test_cuda_of_another_architecture_is_shown() -> None:
    words = ["show", "vgg16", "--image", "32", "--dtype", "bf16", "--node", "conv2_2_forward"]
    for arch, called in ((None, "gc_mma_bf16"), ("sm_80", "gc_mma_bf16"), ("sm_90a", "gc_wgmma_")):
        asked = ["--arch", arch] if arch else []
        result = CliRunner().invoke(main, [*words, "--target", "cuda", *asked])
        assert result.exit_code == 0, result.output
        assert called in result.stdout, arch
    wrong = CliRunner().invoke(main, [*words, "--target", "cuda", "--arch", "hopper"])
    assert wrong.exit_code == 1
    assert "there is no architecture 'hopper'" in wrong.output
    of_c = CliRunner().invoke(main, [*words, "--arch", "sm_80"])
    assert of_c.exit_code == 1
    assert "add --target cuda" in of_c.output


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_memory_that_is_shown_is_what_a_program_takes(precision: str) -> None:
    x, w = gx.input("x", (8, 32)), gx.parameter("w", (16, 32))
    loss, optimizer = gx.mean(gx.square(gx.dense(x, w))), SGD(0.1, momentum=0.9)
    subject = training_subject("net", [loss], optimizer, precision)
    shown = show_document(replace(subject, target="cuda"), "schedule", None)["memory"]
    step = gx.training_step(loss, optimizer, target="cuda-emu", precision=precision)
    assert isinstance(step.program, DeviceProgram)
    assert shown == asdict(step.program.memory) | {"total": step.program.memory.total}
