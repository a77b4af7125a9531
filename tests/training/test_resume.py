"""N steps equal k steps, a kill or a stop, and a resume: bit for bit at the same layout, to rounding at another. On real media."""

from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
import torch

from launchers.local import launch
from megatron_mplug2.checkpoint import commit
from megatron_mplug2.errors import UserError
from megatron_mplug2.training import loop
from tests.training.corpus import demo_config
from tests.training.runs import figures_of, kill, run_to_the_end, run_until, tensors_of, terminate

NO_DROPOUT = ("model.text.dropout=0", "model.text.attention_dropout=0", "model.vision.drop_path=0")


ZERO_3 = ("training.engine=deepspeed", "deepspeed.zero_stage=3", "training.validate_every=6")


@pytest.mark.parametrize(
    ("end", "overrides"),
    [(kill, ()), pytest.param(terminate, (), marks=pytest.mark.long), pytest.param(kill, ZERO_3, marks=pytest.mark.long)],
)
def test_an_ended_run_goes_on_bit_for_bit(
    corpus: Path, tmp_path: Path, end: Callable[[ForkProcess], None], overrides: tuple[str, ...]
) -> None:
    """Two data-parallel ranks with ZeRO-1, two microbatches, dropout, a worker that reads four global batches ahead."""
    straight, ended = (demo_config(corpus, tmp_path / name, overrides) for name in ("straight", "ended"))
    run_to_the_end(straight)
    run_until(ended, 6, end)
    stopped_after = commit.latest(ended.run_dir / "checkpoints")
    assert stopped_after == 5 if end is kill else stopped_after is not None and 7 <= stopped_after < 12
    run_to_the_end(ended)
    expected, found = figures_of(straight), figures_of(ended)
    assert sorted(found) == list(range(12))
    assert found == expected
    tensors, resumed = tensors_of(straight), tensors_of(ended)
    assert tensors.keys() == resumed.keys()
    assert all(torch.equal(tensors[key], resumed[key]) for key in tensors)


def test_a_resume_at_another_layout_goes_on_with_the_same_losses(corpus: Path, tmp_path: Path) -> None:
    straight = demo_config(corpus, tmp_path / "straight", NO_DROPOUT)
    run_to_the_end(straight)
    run_until(demo_config(corpus, tmp_path / "moved", NO_DROPOUT), 6, kill)
    layout = ("layout.data=1", "layout.tensor=2", "layout.pipeline=2", "layout.sequence_parallel=true", "training.microbatch=4")
    moved = demo_config(corpus, tmp_path / "moved", (*NO_DROPOUT, *layout))
    run_to_the_end(moved)
    expected, found = figures_of(straight), figures_of(moved)
    assert sorted(found) == list(range(12))
    for step, figures in expected.items():
        assert found[step]["task"] == figures["task"]
        numbers = {name: value for name, value in figures.items() if isinstance(value, float)}
        assert {name: found[step][name] for name in numbers} == pytest.approx(numbers, rel=1e-4)


def test_a_finished_run_is_left_as_it_is(corpus: Path, tmp_path: Path) -> None:
    config = demo_config(corpus, tmp_path / "run", ["schedule.0.steps=3"])
    run_to_the_end(config)
    before = figures_of(config)
    run_to_the_end(config)
    assert figures_of(config) == before


def test_a_resume_with_another_model_is_refused(corpus: Path, tmp_path: Path) -> None:
    run_to_the_end(demo_config(corpus, tmp_path / "run", ["schedule.0.steps=3"]))
    with pytest.raises(UserError, match=r"model\.fusion_layers: 2 in the checkpoint, 3 now"):
        launch(demo_config(corpus, tmp_path / "run", ["schedule.0.steps=3", "model.fusion_layers=3"]), loop.pretrain)
