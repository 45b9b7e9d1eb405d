"""The command line: what it prints, which exit code it gives, and that a run learns."""

import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from graphc.cli import main
from graphc.errors import UserError
from graphc.train import loop
from graphc.train.choose import choose_model, fitting_image
from graphc.train.network import build_model, changed_options, make_optimizer

NET = """
import graphc as gx

x = gx.input("x", (4, 6))
w = gx.parameter("w", (3, 6))
loss = gx.mean(gx.square(gx.dense(x, w)))
"""


def run(*arguments: str) -> Result:
    """One thread a run: threads that wait for each other make tests slow on a busy machine."""
    threads = ("--threads", "1") if arguments[0] == "train" else ()
    return CliRunner().invoke(main, (*arguments, *threads), prog_name="graphc")


def succeeded(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def failed(*arguments: str, code: int = 1) -> str:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


def test_two_synthetic_steps_end_with_where_to_read_on() -> None:
    text = succeeded("train", "lenet5", "--steps", "2", "--batch", "8", "--width", "0.5")
    assert re.search(r"^step 1/2 .* images/s", text, re.MULTILINE)
    assert re.search(r"^step 2/2 ", text, re.MULTILINE)
    assert re.search(r"^2 steps in .*: loss \d.*images/s$", text, re.MULTILINE)
    assert "held-out" not in text
    folder = re.search(r"^C sources: (.*)$", text, re.MULTILINE)
    assert folder is not None
    assert (Path(folder[1]) / "conv1_forward.c").is_file()


def test_the_command_it_recommends_shows_the_sources_it_compiled() -> None:
    text = succeeded("train", "lenet5", "--steps", "1", "--batch", "8", "--width", "0.5")
    commands = re.findall(r"^  graphc (show .*)$", text, re.MULTILINE)
    folder = Path(re.search(r"^C sources: (.*)$", text, re.MULTILINE)[1])  # type: ignore[index]
    assert commands
    shown = json.loads(succeeded(*commands[0].split(), "--json"))
    assert shown["files"]
    for file in shown["files"]:
        assert file["text"] == (folder / file["name"]).read_text()


def test_mixed_precision_from_the_command_line() -> None:
    words = ("--steps", "2", "--batch", "8", "--width", "0.5", "--dtype", "bf16")
    text = succeeded("train", "lenet5", *words)
    (command, *_) = re.findall(r"^  graphc (show .*)$", text, re.MULTILINE)
    assert "--dtype bf16" in command
    folder = Path(re.search(r"^C sources: (.*)$", text, re.MULTILINE)[1])  # type: ignore[index]
    files = json.loads(succeeded(*command.split(), "--json"))["files"]
    assert all(file["text"] == (folder / file["name"]).read_text() for file in files)
    assert any("gc_to_bf16" in file["text"] for file in files)
    scaled = succeeded("show", "lenet5", "--batch", "8", "--dtype", "fp16", "--stage", "schedule")
    assert "loss_scale" in scaled and "float16" in scaled


def test_a_tuned_run_prints_its_search_and_shows_the_sources_it_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is timed: the variants with the shortest description are the fastest."""
    monkeypatch.setattr("graphc.tune.bench.Bench.prepare", lambda bench, candidates: None)
    monkeypatch.setattr(
        "graphc.tune.bench.Bench.run", lambda bench, candidate: 1e-3 * len(candidate.text)
    )
    words = ("train", "lenet5", "--steps", "1", "--batch", "8", "--width", "0.5")
    text = succeeded(*words, "--tune", "1h")
    assert re.search(r"^conv\w+: direct, .* against [\d.e-]+ m?s", text, re.MULTILINE)
    assert re.search(r"^ ?kernel +tried +untuned +tuned +chosen", text, re.MULTILINE)
    assert re.search(r"^tuned: \d+ variants in .* s; choices in .*\.json$", text, re.MULTILINE)
    assert re.search(r"^these kernels alone: .* a step instead of .*x\)$", text, re.MULTILINE)
    command = re.search(r"^  graphc (show .*--node .*)$", text, re.MULTILINE)
    folder = re.search(r"^C sources: (.*)$", text, re.MULTILINE)
    assert command is not None and folder is not None and "--tuned" in command[1]
    shown = json.loads(succeeded(*command[1].split(), "--json"))
    for file in shown["files"]:
        assert file["text"] == (Path(folder[1]) / file["name"]).read_text()
    schedule = succeeded(*re.sub("--node .*", "--stage schedule", command[1]).split())
    assert "; tuned: direct, " in schedule and "none packed once" in schedule
    assert "tuned" not in succeeded("show", *words[1:2], *words[4:], "--stage", "schedule")


@pytest.mark.parametrize(
    ("text", "seconds"), [("60s", 60.0), ("90", 90.0), ("1.5m", 90.0), ("1h", 3600.0), ("0", 0.0)]
)
def test_times_on_the_line(text: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[loop.Options] = []

    def stop(net: object, data: object, options: loop.Options, reporter: object) -> None:
        seen.append(options)
        raise UserError("enough")

    monkeypatch.setattr("graphc.cli.train", stop)
    failed("train", "lenet5", "--steps", "1", "--tune", text)
    assert seen[0].tune == seconds


def test_digits_are_learned_and_the_same_twice() -> None:
    pytest.importorskip("sklearn")
    words = ("train", "lenet5", "--data", "digits", "--epochs", "3", "--batch", "32")
    text = succeeded(*words)
    accuracy = re.findall(r"^epoch \d: held-out top-1 ([\d.]+)%, top-5", text, re.MULTILINE)
    assert len(accuracy) == 3
    assert float(accuracy[-1]) > 90
    losses = re.findall(r"loss ([\d.]+)", text)
    assert losses[-1] == re.findall(r"loss ([\d.]+)", succeeded(*words))[-1]


def test_batch_norm_in_float64_evaluates_with_running_statistics() -> None:
    pytest.importorskip("sklearn")
    text = succeeded(
        "train", "lenet5", "--data", "digits", "--epochs", "2", "--batch", "32", "--batch-norm",
        "--dtype", "float64", "--optimizer", "adam", "--schedule", "constant", "--warmup", "0",
    )  # fmt: skip
    accuracy = re.findall(r"held-out top-1 ([\d.]+)%", text)
    assert float(accuracy[-1]) > 80, text


def test_a_diverging_run_says_so() -> None:
    text = failed(
        "train", "lenet5", "--steps", "30", "--batch", "8", "--lr", "1e12", "--warmup", "0"
    )
    assert re.match(r"error: the loss of step \d+ is (nan|inf)", text)
    assert "--lr 1e+11" in text


def test_a_loss_that_stays_at_that_of_guessing_gives_a_hint() -> None:
    pytest.importorskip("sklearn")
    text = succeeded(
        "train", "lenet5", "--data", "digits", "--steps", "51", "--batch", "8", "--lr", "1e-9",
        "--width", "0.5", "--init", "torchvision",
    )  # fmt: skip
    assert "hint: the loss stays at 2.303 = ln 10" in text
    assert "--init he" in text and "--batch-norm" in text


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("graphc.cli.train", interrupt)
    assert "interrupted" in failed("train", "lenet5", "--steps", "1", code=130)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("train", "lenet5", "--target", "cuda", "--samples", "64"), 1, "the target 'cuda' needs"),
        (("train", "lenet5", "--data", "cats"), 1, "there is no data named 'cats'"),
        (("train", "lenet5", "--width", "-1"), 1, "error: lenet5: width must be"),
        (("train", "lenet5", "--batch", "2000"), 1, "a batch of 2000"),
        (("train", "lenet5", "--lr", "-1"), 1, "SGD: lr"),
        (("train", "lenet5", "--optimizer", "adam", "--momentum", "0.5"), 1, "no momentum"),
        (("train", "lenet6"), 2, "'lenet6' is not one of"),
        (("train", "lenet5", "--epochs", "0"), 2, "0 is not in the range"),
        (("train", "lenet5", "--tune", "soon"), 2, "'soon' is not a time such as 60s"),
        (("train", "lenet5", "--tune", "-1s"), 2, "'-1s' is not a time such as 60s"),
        (("train", "lenet5", "--tune", "nan"), 2, "'nan' is not a time such as 60s"),
        (("train", "lenet5", "--target", "cuda-emu", "--tune", "9s"), 1, "tune is for the target"),
        (("show", "lenet6"), 1, "did you mean lenet5?"),
        (("show", "nowhere.py"), 1, "there is no file nowhere.py"),
        (("show", "lenet5", "--node", "conv11"), 1, "did you mean conv1"),
        (("show", "lenet5", "--stage", "leaves"), 2, "is not one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_the_user_can_correct(words: tuple[str, ...], code: int, message: str) -> None:
    assert message in failed(*words, code=code)


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_DEBUG", "1")
    assert isinstance(run("show", "lenet6").exception, UserError)


def test_show_reads_a_file(net: Path) -> None:
    text = succeeded("show", str(net), "--node", "w")
    assert "net.py:6:\n  loss = gx.mean(gx.square(gx.dense(x, w)))" in text
    assert re.search(r"d_w\[.*\] = sum over ", text)
    assert "void w_update(" in text


def test_a_file_without_a_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.py"
    path.write_text("x = 1\n")
    assert "neither `loss` nor `outputs`" in failed("show", str(path))


def test_summary_and_doctor() -> None:
    document = json.loads(succeeded("summary", "lenet5", "--json"))
    assert document["parameters"] == 61706
    assert "Networks can be trained here." in succeeded("doctor")


def test_a_machine_without_a_compiler(monkeypatch: pytest.MonkeyPatch, net: Path) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    result = run("doctor")
    assert result.exit_code == 1
    assert "fix: " in result.stdout and "cannot be trained" in result.stdout
    assert json.loads(succeeded("show", str(net), "--stage", "kernels", "--json"))["simd"] == "avx2"
    assert failed("train", "lenet5", "--steps", "1").startswith("error: no C compiler")


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    rates = [loop.learning_rate(step, 100, 0.5, 20, "cosine") for step in range(100)]
    assert rates[0] == pytest.approx(0.025)
    assert rates[19] == rates[20] == 0.5
    assert rates[60] == pytest.approx(0.25)
    assert rates[99] < 0.001
    assert all(a >= b for a, b in itertools.pairwise(rates[20:]))
    assert loop.learning_rate(99, 100, 0.5, 20, "constant") == 0.5


def test_images_are_enlarged_to_what_a_model_takes() -> None:
    assert fitting_image("vgg16", {}, 28) == 32
    assert fitting_image("alexnet", {}, 28) == 64
    assert choose_model("vgg16", "mnist5k", {}).settings.image == (32, 32)
    assert choose_model("lenet5", "mnist5k", {}).settings.channels == 1
    with pytest.raises(UserError, match="width"):
        fitting_image("vgg16", {"width": 0}, 28)


def test_a_model_is_built_again_from_its_changed_options() -> None:
    model = build_model("vgg11", {"image": 32, "classes": 7, "batch_norm": True, "head": None})
    options = changed_options(model)
    assert options == {"image": 32, "classes": 7, "batch_norm": True}
    assert build_model("vgg11", options).settings == model.settings


def test_optimizers_have_usual_values() -> None:
    sgd = make_optimizer("sgd", None, None, None)
    assert sgd == make_optimizer("sgd", 0.005, 0.9, 5e-4)
    assert make_optimizer("adamw", None, None, None).lr == 0.001
    with pytest.raises(UserError, match="weight decay"):
        make_optimizer("sgd", None, None, math.nan)


def test_the_runs_mean_is_that_of_the_steps_since_the_epoch_began() -> None:
    seen: list[loop.Progress] = []

    class Recorder:
        def compiling(self, done: int, total: int, name: str) -> None: ...
        def began(self, step: object, steps: int) -> None: ...
        def evaluated(self, evaluation: object) -> None: ...
        def hint(self, text: str) -> None: ...
        def stepped(self, progress: loop.Progress) -> None:
            seen.append(progress)

    model = choose_model("lenet5", "synthetic", {"width": 0.5, "classes": 10})
    data = loop_data()
    outcome = loop.train(model, data, loop.Options(batch=8, epochs=2, threads=1), Recorder())
    assert [p.step for p in seen] == [1, 2, 3, 4]
    assert [p.epoch for p in seen] == [1, 1, 2, 2]
    assert seen[3].mean_loss == pytest.approx(np.mean([seen[2].loss, seen[3].loss]))
    assert outcome.last is seen[-1] and outcome.evaluations == ()


def loop_data() -> loop.Dataset:
    generator = np.random.default_rng(5)
    images = generator.standard_normal((19, 1, 32, 32)).astype(np.float32)
    labels = np.arange(19) % 10
    return loop.Dataset("synthetic", images, labels, images[:2], labels[:2], 10)
