"""N steps equal k steps, a kill or a stop, and a resume: bit for bit at the same layout, to rounding at another. On real media."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
import torch

from launchers.local import launch
from launchers.ranks import Entry
from megatron_mplug2.checkpoint import commit
from megatron_mplug2.checkpoint.commit_file import read_commit
from megatron_mplug2.checkpoint.pieces import Piece
from megatron_mplug2.checkpoint.storage import StoredTensors
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import UserError
from megatron_mplug2.training import loop
from tests.training.corpus import demo_config, make_corpus

PATIENCE_S = 120
NO_DROPOUT = ("model.text.dropout=0", "model.text.attention_dropout=0", "model.vision.drop_path=0")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def run_to_the_end(config: RunConfig) -> None:
    process = _started(config)
    process.join(PATIENCE_S)
    assert process.exitcode == 0


def run_until(config: RunConfig, step: int, end: Callable[[ForkProcess], None], entry: Entry = loop.pretrain) -> None:
    """Starts a run and ends it once it has logged a step and has a checkpoint."""
    process = _started(config, entry)
    deadline = time.monotonic() + PATIENCE_S
    while not (step in _figures(config) and commit.latest(config.run_dir / "checkpoints")) and time.monotonic() < deadline:
        if not process.is_alive():
            break
        time.sleep(0.01)
    assert process.is_alive(), f"ended before step {step}"
    end(process)
    process.join(PATIENCE_S)


def kill(process: ForkProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)


def terminate(process: ForkProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)


def _started(config: RunConfig, entry: Entry = loop.pretrain) -> ForkProcess:
    process = multiprocessing.get_context("fork").Process(target=launch, args=(config, entry))
    process.start()
    return process


def _figures(config: RunConfig) -> dict[int, dict[str, float | str]]:
    """What metrics.jsonl says of each training step, without what is time."""
    path = config.run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    steps = [json.loads(line) for line in lines if line.endswith("\n")]
    training = [step for step in steps if step["kind"] == "train"]
    return {step["step"]: {name: value for name, value in step.items() if not name.endswith("_s")} for step in training}


def _tensors(config: RunConfig) -> dict[str, torch.Tensor]:
    """Weights and optimizer state of the last checkpoint, whole."""
    folder = config.run_dir / "checkpoints" / commit.folder_name(config.steps)
    stored = StoredTensors(folder, read_commit(folder).files)
    # Adam's count of updates is a scalar; one type serves all here.
    pieces = [Piece(key=key, full_size=size, offsets=(0,) * len(size), tensor=torch.empty(size)) for key, size in stored.sizes().items()]
    stored.read(pieces)
    return {piece.key: piece.tensor for piece in pieces}


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
    expected, found = _figures(straight), _figures(ended)
    assert sorted(found) == list(range(12))
    assert found == expected
    tensors, resumed = _tensors(straight), _tensors(ended)
    assert tensors.keys() == resumed.keys()
    assert all(torch.equal(tensors[key], resumed[key]) for key in tensors)


def test_a_resume_at_another_layout_goes_on_with_the_same_losses(corpus: Path, tmp_path: Path) -> None:
    straight = demo_config(corpus, tmp_path / "straight", NO_DROPOUT)
    run_to_the_end(straight)
    run_until(demo_config(corpus, tmp_path / "moved", NO_DROPOUT), 6, kill)
    layout = ("layout.data=1", "layout.tensor=2", "layout.pipeline=2", "layout.sequence_parallel=true", "training.microbatch=4")
    moved = demo_config(corpus, tmp_path / "moved", (*NO_DROPOUT, *layout))
    run_to_the_end(moved)
    expected, found = _figures(straight), _figures(moved)
    assert sorted(found) == list(range(12))
    for step, figures in expected.items():
        assert found[step]["task"] == figures["task"]
        numbers = {name: value for name, value in figures.items() if isinstance(value, float)}
        assert {name: found[step][name] for name in numbers} == pytest.approx(numbers, rel=1e-4)


def test_a_finished_run_is_left_as_it_is(corpus: Path, tmp_path: Path) -> None:
    config = demo_config(corpus, tmp_path / "run", ["schedule.0.steps=3"])
    run_to_the_end(config)
    before = _figures(config)
    run_to_the_end(config)
    assert _figures(config) == before


def test_a_resume_with_another_model_is_refused(corpus: Path, tmp_path: Path) -> None:
    run_to_the_end(demo_config(corpus, tmp_path / "run", ["schedule.0.steps=3"]))
    with pytest.raises(UserError, match=r"model\.fusion_layers: 2 in the checkpoint, 3 now"):
        launch(demo_config(corpus, tmp_path / "run", ["schedule.0.steps=3", "model.fusion_layers=3"]), loop.pretrain)
