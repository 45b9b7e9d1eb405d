"""The command `graphc`: what stands on the line becomes one call into the train or inspect room."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from graphc import __version__
from graphc.backends.base import thread_count
from graphc.backends.cuda.architecture import OLDEST, check_architecture
from graphc.backends.cuda.compile import COMPILERS, find_device_compiler
from graphc.compiler import TARGETS
from graphc.dsl.models import MODELS
from graphc.errors import ToolchainError, UserError
from graphc.inspect.doctor import examine, report
from graphc.inspect.emitted import emit_step
from graphc.inspect.highlight import paint_c
from graphc.inspect.show import STAGES, show
from graphc.inspect.subject import Subject, file_subject, model_subject
from graphc.inspect.summary import summarise
from graphc.train.choose import choose_model
from graphc.train.data import SPECS, load
from graphc.train.loop import SCHEDULES, Options, train
from graphc.train.network import (
    DTYPES,
    OPTIMIZERS,
    build_model,
    changed_options,
    make_optimizer,
)
from graphc.train.report import closing_lines, make_reporter

COUNT = click.IntRange(min=1)
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
Command = Callable[..., None]

MODEL_OPTIONS = (
    click.option("--image", type=COUNT, help="Height and width of the images."),
    click.option("--channels", type=COUNT, help="Channels of the images."),
    click.option("--classes", type=COUNT, help="Number of classes."),
    click.option("--head", type=COUNT, help="Width of the hidden dense layers."),
    click.option("--width", type=float, help="Factor of all numbers of channels."),
    click.option("--batch-norm", is_flag=True, default=None, help="Normalise every convolution."),
    click.option("--dropout", type=float, help="Rate of dropout between dense layers."),
    click.option("--init", type=click.Choice(["he", "torchvision"]), help="First weights."),
    click.option(
        "--dtype",
        type=click.Choice(list(DTYPES)),
        help="Element type; bf16 and fp16 store what lies between float32 parameters in 16 bits.",
    ),
    click.option("--seed", type=int, default=0, help="Of weights, dropout and order of data."),
)
STEP_OPTIONS = (
    click.option("--batch", type=COUNT, default=64, show_default=True, help="Images a step."),
    click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="sgd", show_default=True),
    click.option("--momentum", type=float, help="Of SGD.  [default: 0.9]"),
    click.option("--weight-decay", type=float, help="[default: 0.0005; adam 0, adamw 0.01]"),
    click.option("--exact", is_flag=True, help="No tiled (Winograd) convolutions."),
)
MODEL_KEYS = (
    "image", "channels", "classes", "head", "width", "batch_norm", "dropout", "init", "dtype",
    "seed",
)  # fmt: skip
SHARED_KEYS = ("batch", "optimizer", "momentum", "weight_decay", "exact", "dtype")


JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="One JSON document.")


class Commands(click.Group):
    """Prints what the user can correct as one message; a traceback is for our own mistakes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that the line names."""
        try:
            return super().invoke(ctx)
        except (UserError, ToolchainError) as error:
            if os.environ.get("GRAPHC_DEBUG") == "1":
                raise
            click.echo(f"error: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(130)


def with_options(options: tuple[Callable[[Command], Command], ...]) -> Callable[[Command], Command]:
    """All of several options, in the order in which they are listed."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _seconds(ctx: click.Context, option: click.Parameter, text: str | None) -> float | None:
    """A time such as 90, 90s or 1.5m in seconds."""
    if text is None:
        return None
    unit = _UNITS.get(text[-1:])
    try:
        seconds = float(text) if unit is None else float(text[:-1]) * unit
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise click.BadParameter(f"{text!r} is not a time such as 60s, 2m or plain seconds")
    return seconds


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Networks as formulas: read them, their gradients and their C; train them."""


@main.command("train")
@click.argument("model", type=click.Choice(list(MODELS)))
@click.option("--data", default="synthetic", show_default=True, help=f"One of {', '.join(SPECS)}.")
@click.option("--epochs", type=COUNT, default=4, show_default=True)
@click.option("--steps", type=COUNT, help="Stop after so many steps, whatever the epochs.")
@click.option("--lr", type=float, help="Highest learning rate.  [default: sgd 0.005, adam 0.001]")
@click.option(
    "--warmup", type=click.IntRange(min=0), default=20, show_default=True, metavar="STEPS"
)
@click.option("--schedule", type=click.Choice(SCHEDULES), default="cosine", show_default=True)
@click.option("--samples", type=COUNT, help="At most so many images.")
@click.option("--threads", type=COUNT, help="By default one for each core.")
@click.option(
    "--tune", metavar="TIME", callback=_seconds,
    help="Search so long for faster kernels: 60s, 2m; 0 takes what earlier searches chose.",
)  # fmt: skip
@click.option(
    "--target", type=click.Choice(TARGETS), default="c", show_default=True,
    help="This processor, an NVIDIA GPU, or its emulator.",
)  # fmt: skip
@with_options(STEP_OPTIONS)
@with_options(MODEL_OPTIONS)
def train_command(model: str, data: str, samples: int | None, **given: Any) -> None:
    """Train a model and say where its formulas and sources can be read."""
    asked = _model_options(given)
    first = choose_model(model, data, asked)
    classes = first.settings.classes if data == "synthetic" else given["classes"]
    dataset = load(
        data, image=first.settings.image[0], channels=first.settings.channels,
        classes=classes, seed=given["seed"], samples=samples,
    )  # fmt: skip
    net = build_model(
        model, {**changed_options(first), "classes": asked.get("classes", dataset.classes)}
    )
    chosen = {**given, "precision": _precision(given)}
    options = Options(**{field.name: chosen[field.name] for field in fields(Options)})
    with make_reporter() as reporter:
        outcome = train(net, dataset, options, reporter)
    shared = _set_by_user(SHARED_KEYS, given)
    if options.tune is not None:
        shared |= {"tuned": True, "threads": options.threads}
    click.echo(closing_lines(net, outcome, shared))


@main.command("show")
@click.argument("network", metavar="MODEL|FILE.py")
@click.option("--stage", type=click.Choice(STAGES), help="What to show of it.")
@click.option("--node", help="A layer, a value or a kernel.")
@click.option("--tuned", is_flag=True, help="With what `train --tune` chose on this machine.")
@click.option("--threads", type=COUNT, help="How many it was tuned for.")
@click.option(
    "--target", type=click.Choice(["c", "cuda"]), default="c", show_default=True,
    help="Show C, or CUDA and the device memory that it takes.",
)  # fmt: skip
@click.option("--arch", help=f"The device that CUDA is for, such as sm_90a.  [default: {OLDEST}]")
@JSON_OPTION
@with_options(STEP_OPTIONS)
@with_options(MODEL_OPTIONS)
def show_command(
    network: str,
    stage: str | None,
    node: str | None,
    as_json: bool,
    tuned: bool,
    threads: int | None,
    target: str,
    arch: str | None,
    **given: Any,
) -> None:
    """Show the formulas, gradients, kernels and sources of a model's training step.

    FILE.py declares its own network: it assigns `loss`, `outputs` or both outside of any function.
    """
    if arch is not None and target == "c":
        raise UserError("--arch names a device, and C is shown: add --target cuda")
    architecture = check_architecture(arch or OLDEST)
    subject = replace(_subject(network, given), target=target, architecture=architecture)
    if tuned and target == "cuda":
        raise UserError("--tuned shows what a search chose for C: leave out --target cuda")
    if tuned:
        subject = replace(subject, tuned_for=thread_count(threads))
    click.echo(show(subject, stage, node, as_json, paint_c))


@main.command("emit")
@click.argument("network", metavar="MODEL|FILE.py")
@click.option("--target", type=click.Choice(["cuda"]), default="cuda", show_default=True)
@click.option(
    "--arch", default="sm_80,sm_90a", show_default=True, help="Architectures, with commas between."
)
@click.option("--compiler", type=click.Choice(COMPILERS), help="By default NVRTC, else nvcc.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A folder.")
@with_options(STEP_OPTIONS)
@with_options(MODEL_OPTIONS)
def emit_command(
    network: str, target: str, arch: str, compiler: str | None, output: Path, **given: Any
) -> None:
    """Write the CUDA of a model's training step, compile it, and list what its kernels take.

    No GPU is needed, only nvcc or NVRTC.
    """
    with make_reporter() as reporter:
        text = emit_step(
            _subject(network, given), arch.split(","), output, find_device_compiler(compiler),
            reporter.compiling,
        )  # fmt: skip
    click.echo(text)
    click.echo(f"CUDA sources: {output}")


@main.command("summary")
@click.argument("model", type=click.Choice(list(MODELS)))
@JSON_OPTION
@with_options(MODEL_OPTIONS)
def summary_command(model: str, as_json: bool, **given: Any) -> None:
    """List the layers of a model: shapes, parameters, products, receptive fields."""
    click.echo(summarise(build_model(model, _model_options(given)), as_json))


@main.command("doctor")
def doctor_command() -> None:
    """Say what this machine has, and what to install where something is missing."""
    checks = examine()
    click.echo(report(checks))
    if any(check.needed and check.fix for check in checks):
        sys.exit(1)


def _subject(network: str, given: dict[str, Any]) -> Subject:
    """The step of a model, or of what a file declares."""
    optimizer = make_optimizer(given["optimizer"], None, given["momentum"], given["weight_decay"])
    kernels = {"exact": given["exact"], "precision": _precision(given)}
    if network in MODELS:
        net = build_model(network, _model_options(given))
        return model_subject(net, given["batch"], optimizer, **kernels)
    if network.endswith(".py"):
        return file_subject(network, optimizer, **kernels)
    raise UserError(_no_network(network))


def _model_options(given: dict[str, Any]) -> dict[str, Any]:
    options = {key: given[key] for key in MODEL_KEYS if given[key] is not None}
    if "dtype" in options:
        options["dtype"], _ = DTYPES[options["dtype"]]
    return options


def _precision(given: dict[str, Any]) -> str:
    return DTYPES[given["dtype"] or "fp32"][1]


def _set_by_user(keys: Iterable[str], given: dict[str, Any]) -> dict[str, Any]:
    """The options that stand on the line."""
    source = click.get_current_context().get_parameter_source
    return {key: given[key] for key in keys if source(key) is not ParameterSource.DEFAULT}


def _no_network(name: str) -> str:
    close = difflib.get_close_matches(name, MODELS, n=1)
    advice = f"did you mean {close[0]}?" if close else f"there are {', '.join(MODELS)}."
    return f"there is no model '{name}'; {advice}\n  A network of your own is a file: FILE.py"
