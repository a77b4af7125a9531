"""The `mplug2` command: reads arguments, calls what does the work. Each command imports what it needs, so that help is quick."""

import os
import sys
import traceback
import warnings
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from data_tools.commands import app as data
from launchers.exit_notes import write_exit_note
from launchers.stop_signal import cut_short_at_stop, hold_back
from megatron_mplug2.bench_command import bench
from megatron_mplug2.checkpoint_commands import app as checkpoint
from megatron_mplug2.conversion_commands import app as convert
from megatron_mplug2.errors import ExitCode, RankError, UserError
from megatron_mplug2.launch_commands import app as jobs
from megatron_mplug2.launch_commands import launch
from megatron_mplug2.observability.spent import command_begins
from megatron_mplug2.plan_command import plan
from megatron_mplug2.predict_command import predict
from megatron_mplug2.report_command import report
from megatron_mplug2.study_commands import app as study
from megatron_mplug2.sweep_commands import app as sweep

Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Config keys to set, such as optimizer.lr=1e-4")]
ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, such as configs/pretrain/base.yaml")]

DEMO_CONFIG = Path(__file__).parents[1] / "configs/pretrain/demo.yaml"
"""Found from any folder, since it lies in the checkout; what the demo writes is relative to the current folder."""

NOT_RESUMED = (
    "the cluster asked for an end, by its time limit or a preemption, and an evaluation begins anew instead of being resumed: "
    "after a time limit launch it with a longer time_limit_min in the cluster's profile"
)

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help="Pretrain and evaluate mPLUG-2."
)
app.add_typer(data, name="data")
app.add_typer(checkpoint, name="checkpoint")
app.add_typer(convert, name="convert")
app.command()(plan)
app.command()(bench)
app.command()(report)
app.command()(predict)
app.add_typer(jobs, name="jobs")
app.command()(launch)
app.add_typer(study, name="study")
app.add_typer(sweep, name="sweep")


@app.command()
def pretrain(config: ConfigFile, overrides: Overrides = None) -> None:
    """Pretrain, or go on from the latest checkpoint in the run folder.

    Starts as many local ranks as the layout asks for; under torchrun or srun it joins the ranks that are there. Ctrl-C, SIGTERM and SIGUSR2
    save a checkpoint and end the run with exit status 85.
    """
    hold_back()  # before the imports, which take seconds
    from megatron_mplug2.config.load import load_config

    run = load_config(config, overrides or [])
    if run.downstream is not None:
        raise UserError(f"{config}: downstream.family={run.downstream.family} is finetuned: run `mplug2 finetune {config}`")

    from megatron_mplug2.data.streams import look_at_data

    look_at_data(run)

    from launchers.gpu_memory import check_gpu_memory
    from launchers.local import launch
    from megatron_mplug2.training import loop

    check_gpu_memory(run)
    raise typer.Exit(launch(run, loop.pretrain))


@app.command()
def finetune(config: ConfigFile, overrides: Overrides = None) -> None:
    """Finetune for the config's downstream family, from another run's weights or anew, or go on from the latest checkpoint.

    Starts or joins ranks, stops and goes on as `pretrain` does.
    """
    hold_back()
    from megatron_mplug2.config.load import load_config

    run = load_config(config, overrides or [])

    from megatron_mplug2.data.streams import look_at_data
    from megatron_mplug2.downstream.family import check_finetuning

    check_finetuning(run)
    look_at_data(run)

    from launchers.gpu_memory import check_gpu_memory
    from launchers.local import launch
    from megatron_mplug2.downstream.finetune import finetune

    check_gpu_memory(run)
    raise typer.Exit(launch(run, finetune))


@app.command()
def evaluate(
    config: ConfigFile,
    overrides: Overrides = None,
    answers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Choose among these answers to questions, one on each line", show_default=False)
    ] = None,
) -> None:
    """Evaluate the run's best checkpoint, if it keeps that, else its newest, on its test split: retrieval, captions and questions, or what
    `downstream.family` names.

    Starts or joins ranks as `pretrain` does; the layout may be another than that of the training. It is not resumed: SIGUSR2 ends it.
    """
    hold_back()
    from megatron_mplug2.config.load import load_config

    run = load_config(config, overrides or [])

    from launchers.local import launch
    from megatron_mplug2.evaluation import evaluate
    from megatron_mplug2.evaluation.answer_list import read_answers

    work = partial(evaluate.evaluate, answers=read_answers(answers) if answers is not None else None)
    launch(run, cut_short_at_stop(work, NOT_RESUMED))


@app.command()
def demo(overrides: Overrides = None) -> None:
    """Make a small corpus of moving shapes, pretrain on it, and show what was learned. Needs a checkout, for its config."""
    from launchers.demo import run_demo
    from megatron_mplug2.training import loop

    run_demo(DEMO_CONFIG, overrides or [], loop.pretrain)


@app.command("config")
def show_config(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a config and print it whole, with every default."""
    from megatron_mplug2.config.load import load_config, resolved_yaml

    typer.echo(resolved_yaml(load_config(config, overrides or [])), nl=False)


def main() -> None:
    """Runs the command and exits as `errors.ExitCode` says. A person's mistake and a failed rank are told without a traceback."""
    command_begins()
    warnings.filterwarnings("ignore", module="megatron")  # tells at every start which optional packages are not there
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # of names that Megatron-Core uses
    try:
        code, why = _run()
    except Exception as error:  # a defect: the interpreter shows it
        write_exit_note(ExitCode.FAILED, traceback.format_exception_only(error)[-1].strip(), os.environ)
        raise
    write_exit_note(code, why, os.environ)
    sys.exit(code)


def _run() -> tuple[int, str]:
    """Its exit code, and why in one line; an empty one where nothing went wrong."""
    try:
        code = app(standalone_mode=False)
    except TyperException as error:
        why = _wrongly_called(error)
        typer.echo(why, err=True)
        return error.exit_code, why
    except (UserError, RankError) as error:
        typer.echo(f"error: {error}", err=True)
        return error.exit_code, str(error)
    except SystemExit as end:
        if not isinstance(end.code, int):  # a text is printed by the interpreter
            raise
        return end.code, ""
    return (code if isinstance(code, int) else ExitCode.FINISHED), ""


def _wrongly_called(error: TyperException) -> str:
    """A line, as of any mistake; of a command without a word its help."""
    said, context = error.format_message(), getattr(error, "ctx", None)
    if context is None or said == context.get_help():
        return said
    line = " ".join(said.replace("Value error, ", "").split()).rstrip(".")
    return f"error: {line} (`{context.command_path} --help` tells more)"


if __name__ == "__main__":
    main()
