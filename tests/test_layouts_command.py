"""`mplug2 plan --gpus`: layouts of GPUs that are not here."""

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from megatron_mplug2.layouts_command import chosen_config
from megatron_mplug2.plan_command import plan
from megatron_mplug2.planner.layouts import microbatches
from megatron_mplug2.planner.profile import profile_tree
from tests.planner.machine import PROFILE
from tests.refused import line_of

APP = Typer()
APP.command()(plan)
GPUS = ("--gpus", "8", "--gpu", "h100", "--nodes-of", "4")


def command(*arguments: str) -> Result:
    return CliRunner().invoke(APP, list(arguments))


def refusal(*arguments: str) -> str:
    return line_of(command(*arguments))


def test_layouts_of_base(tmp_path: Path) -> None:
    page = tmp_path / "step.html"
    done = command("--model", "base", *GPUS, "--timeline", str(page), "training.global_batch=2048")
    assert done.exception is None
    lines = done.stdout.splitlines()
    assert lines[0] == "base on 8 H100 (2 nodes of 4), global batch 2048, bf16"
    assert "a model's, which no measurement on GPUs has checked yet" in lines[1] and "Assumed: 50%" in lines[2]
    ranking = lines.index(next(line for line in lines if line.startswith("the best 5 of ")))
    rates = [float(line.split()[7].replace(",", "")) for line in lines[ranking + 2 : ranking + 7]]
    assert rates == sorted(rates, reverse=True)
    times = lines[lines.index("time of the best, ms") + 2].rsplit(maxsplit=9)
    assert sum(map(float, times[1:-1])) == pytest.approx(float(times[-1]), abs=0.05)
    assert any(line.startswith("failures: one in 3,167.") for line in lines)
    assert lines[-1] == f"wrote {page}" and "no measurement on GPUs" in page.read_text()


def test_layouts_that_fall_out_are_told() -> None:
    small = ("training.global_batch=16", "training.microbatch=16", "layout.data=1")
    lines = command("--model", "base", "--gpus", "2", "--gpu", "H100", *small).stdout.splitlines()
    reason = "training.global_batch=16 cannot be shared out to 2 replicas in whole groups of 16 samples"
    assert lines[lines.index("left out") + 1] == f"  tensor 1 x pipeline 1 x data 2: {reason}"


def test_where_nothing_fits_the_reasons_are_told() -> None:
    done = command("--model", "base", "--gpus", "2", "--gpu", "H100", "--memory-gb", "0.5")
    assert str(done.exception).startswith("no layout of 2 H100 can train base: see the reasons above")
    assert "needs at least " in done.stdout


def test_where_the_batch_cannot_be_shared_out_other_sizes_are_named() -> None:
    """More or larger devices would be of no help."""
    done = command("--model", "base", "--gpus", "12", "--gpu", "H200", "training.global_batch=1024")
    assert done.stdout.startswith("base on 12 H200 (2 nodes of 8, the last with 4), ")
    assert str(done.exception).endswith("see the reasons above; try --gpus 8 or 16, or training.global_batch=1536")
    assert microbatches(chosen_config(None, "base", ["training.global_batch=1536"]), 12)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no config is named: give a CONFIG, or --model with one of base, demo, huge, large"),
        (("--model", "base", *GPUS, "--stages"), "--stages shows the layout of one config, --gpus compares many"),
        (("--model", "giant"), "--model giant has no config in "),
        (("--model", "base", "--gpus", "8"), "--gpus 8 needs --gpu: name one of A100, H100, H200, B200"),
        (("--model", "base", "--timeline", "step.html"), "--timeline step.html needs --gpu: name one of A100, H100, H200, B200"),
        (("--model", "base", "--gpus", "8", "--gpu", "V100"), "--gpu V100 has no profile of its links and memory"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    assert refusal(*arguments).startswith(said)


def test_a_models_name_stands_for_its_config() -> None:
    assert command("--model", "base", "layout.data=4").stdout.startswith("base on 4 ranks")


def test_the_timeline_of_a_configs_own_layout(tmp_path: Path) -> None:
    page = tmp_path / "step.html"
    pipeline = ("layout.pipeline=4", "layout.data=2")
    done = command("--model", "base", "--gpu", "H100", "--timeline", str(page), *pipeline)
    assert done.exception is None and done.stdout.splitlines()[-1] == f"wrote {page}"
    text = page.read_text()
    assert "tensor 1 x pipeline 4 x data 2, 8 microbatches of 64" in text
    assert text.count('<rect class="backward"') == 4 * 8 == text.count('<rect class="forward"')


@pytest.mark.parametrize("asked", [("--gpu", "H100"), GPUS], ids=["of its own layout", "of the best one"])
def test_a_timeline_that_cannot_be_written_is_told_before_the_table(tmp_path: Path, asked: tuple[str, ...]) -> None:
    (tmp_path / "file").touch()
    done = command("--model", "base", *asked, "--timeline", str(tmp_path / "file/step.html"))
    assert str(done.exception).startswith(f"cannot write {tmp_path}/file/step.html: ") and done.stdout == ""


def test_a_measured_machine_stands_in_a_gpus_place(tmp_path: Path) -> None:
    file = tmp_path / "machine.json"
    file.write_text(json.dumps({"figures": profile_tree(PROFILE)}))
    lines = command("--model", "demo", "--gpus", "2", "--gpu", str(file)).stdout.splitlines()
    assert lines[0] == "demo on 2 two cores (1 node of 2), global batch 32, fp32"
    assert "measured on that machine" in lines[1] and not any(line.startswith("failures") for line in lines)
    page = tmp_path / "step.html"
    assert command("--model", "demo", "--gpus", "2", "--gpu", str(file), "--timeline", str(page)).exception is None
    assert "from rates that were measured on that machine" in page.read_text() and "no measurement" not in page.read_text()
    assert refusal("--model", "demo", "--gpus", "4", "--gpu", str(file)).startswith("two cores was measured with up to 2 ranks")
    assert refusal("--model", "base", "--gpus", "2", "--gpu", str(file)).startswith("two cores was measured in fp32")
    assert command("--model", "demo", "--gpu", str(file)).exception is None
