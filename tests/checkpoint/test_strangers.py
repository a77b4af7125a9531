"""Checkpoints of other models, other optimizers or other versions: every rank refuses in the same line, which names the difference."""

import json
import shutil
from pathlib import Path

import pytest

from megatron_mplug2.checkpoint import store
from megatron_mplug2.checkpoint.commit import Retention
from megatron_mplug2.checkpoint.commit_file import COMMIT, checksum, read_commit
from megatron_mplug2.config.layout import LayoutConfig
from tests.checkpoint.runs import DP2, LAYOUTS, refusal, state_of, train_save_train
from tests.checkpoint.toy import Setup, Toy
from tests.ranks import run_ranks


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        (
            Setup(layout=LAYOUTS["tp2"], hidden=16),
            "is of another model: 6 of another size (embedding.weight (11, 8), here (11, 16), first.weight (12, 8), here (12, 16), ",
        ),
        (Setup(layout=LAYOUTS["pp2"], extra_weight=True), "is of another model: 1 missing (extra)"),
        (
            Setup(layout=LayoutConfig(data=2, zero1=False), sgd=True),
            "has optimizer state exp_avg, exp_avg_sq, step, this run's optimizer keeps momentum_buffer",
        ),
    ],
    ids=["sizes", "a weight more", "optimizer"],
)
def test_another_model(saved: Path, setup: Setup, said: str) -> None:
    assert refusal(saved, setup).startswith(f"{saved}/step-00000002 {said}")


def test_a_model_with_less(tmp_path: Path) -> None:
    run_ranks(1, train_save_train, tmp_path, Setup(extra_weight=True))
    assert refusal(tmp_path, DP2) == f"{tmp_path}/step-00000002 is of another model: 1 unexpected (extra)"


def save_weights(folder: Path, setup: Setup) -> None:
    toy = Toy(setup)
    store.save(folder, state_of(2), toy.weights, None, toy.topology, Retention(last=1))
    found = store.find(folder)
    assert isinstance(found, store.Found) and found.state.step == 2
    store.load_weights(found, toy.weights, toy.topology)


@pytest.mark.parametrize("layout", ["one", "tp2", "dp2 zero1"])
def test_a_checkpoint_of_weights_alone(tmp_path: Path, layout: str) -> None:
    run_ranks(LAYOUTS[layout].world_size, save_weights, tmp_path, Setup(layout=LAYOUTS[layout]))
    said = "has optimizer state none, this run's optimizer keeps exp_avg, exp_avg_sq, step"
    assert refusal(tmp_path, DP2) == f"{tmp_path}/step-00000002 {said}"


def test_a_run_of_a_newer_version(saved: Path, tmp_path: Path) -> None:
    """Whole to the byte, so not skipped."""
    shutil.copytree(saved, tmp_path / "run")
    checkpoint = tmp_path / "run/step-00000002"
    run = checkpoint / store.RUN
    run.write_text(json.dumps({**json.loads(run.read_text()), "queue": 7}))
    content = read_commit(checkpoint)
    files = {**content.files, store.RUN: checksum(run)}
    (checkpoint / COMMIT).write_text(content.model_copy(update={"files": files}).model_dump_json())
    assert refusal(tmp_path / "run", DP2) == f"{run} is not the state of a run: queue: Extra inputs are not permitted"


def test_a_commit_of_other_files(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "run")
    checkpoint = tmp_path / "run/step-00000002"
    content = read_commit(checkpoint)
    content.files["__0_0.distcp"], content.files["__1_0.distcp"] = content.files["__1_0.distcp"], content.files["__0_0.distcp"]
    (checkpoint / COMMIT).write_text(content.model_dump_json())
    assert refusal(tmp_path / "run", DP2).startswith(f"no good checkpoint in {tmp_path}/run: step-00000002 (__")
