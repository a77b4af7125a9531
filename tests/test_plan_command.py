"""`mplug2 plan` on the project's configs, whose vocabulary and shards are not there."""

from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from megatron_mplug2.plan_command import plan
from tests.refused import line_of

PROJECT = Path(__file__).parents[1]
APP = Typer()
APP.command()(plan)


def command(config: str, *arguments: str) -> Result:
    return CliRunner().invoke(APP, [str(PROJECT / f"configs/pretrain/{config}.yaml"), *arguments])


def refusal(config: str, *arguments: str) -> str:
    return line_of(command(config, *arguments))


def table(lines: list[str], title: str) -> list[str]:
    start = next(number for number, line in enumerate(lines) if line.startswith(title))
    return lines[start : lines.index("", start) if "" in lines[start:] else None]


def test_the_stages_of_base() -> None:
    done = command("base", "--stages", "layout.pipeline=4", "layout.data=2")
    assert done.exception is None
    lines = done.stdout.splitlines()
    assert lines[0] == "base on 8 ranks: tensor 1 x pipeline 4 x data 2; 8 microbatches of 64 samples a step"
    assert lines[1].startswith("memory: ") and lines[1].endswith(" GB on a rank of stage 0, which needs most")
    blocks = table(lines, "stage  parameters")
    assert len(blocks) == 5
    assert blocks[1].split("M", 1)[1].split() == ["vision.embedding,", "vision.blocks", "0-4"]
    assert blocks[4].endswith("decoder.embedding, decoder.layers 0-11, heads.lm")
    work = table(lines, "share of a stage")
    assert work[1].split() == ["stage", "text", "image_text", "224px", "video_text", "8x224px", "all", "steps"]
    assert work[2].split("  ")[0] == "0" and " 0 % " in work[2], "text leaves the vision encoder's stages idle"
    assert work[-1].split() == ["steps", "10", "%", "79", "%", "11", "%", "100", "%"]
    memory = table(lines, "memory of a rank")
    assert memory[2].split()[:2] == ["0", "0-1"] and memory[5].split()[:2] == ["3", "6-7"]
    parts = [float(part) for part in memory[2].split()[2:]]
    assert parts[-1] == pytest.approx(sum(parts[:-1]), abs=0.04)
    messages = table(lines, "messages")
    assert [line.split()[0] for line in messages[2:]] == ["0", "1", "2"]
    # bf16: (1 + 196) tokens x 64 pictures x 768, and with 8 frames each.
    assert "nothing" in messages[2] and "frames 19.4" in messages[2] and "frames 154.9" in messages[2]


def test_one_stage_has_no_messages_and_no_idle_time() -> None:
    said = command("base", "--stages").stdout
    assert "stage 0" in said and "messages" not in said and "idle" not in said


def test_the_large_models_are_planned_in_a_moment() -> None:
    assert command("huge", "layout.pipeline=8", "--gpu", "A100").exception is None
    assert "huge on 512 ranks" in command("huge", "layout.pipeline=8").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--gpu", "A100-40GB"), "rank 0 (stage 0 of 1) needs about {} GB (largest part: activations, {}), and A100-40GB has 40: "),
        (("--memory-gb", "40.5"), "rank 0 (stage 0 of 1) needs about {} GB (largest part: activations, {}), and a device has 40.5: "),
    ],
)
def test_a_layout_that_does_not_fit_is_one_line_with_what_would(arguments: tuple[str, str], said: str) -> None:
    line = refusal("large", "training.recompute=none", *arguments)
    before, between, after = said.split("{}")
    assert line.startswith(before) and between in line and after in line
    assert "training.recompute=full would fit, with " in line
    assert command("large", "training.recompute=full", *arguments).exception is None


def test_an_unknown_gpu_is_refused() -> None:
    assert refusal("base", "--gpu", "A10").startswith("--gpu A10 is not known, those are V100, A100, ")
