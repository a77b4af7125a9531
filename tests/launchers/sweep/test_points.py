"""Sweeps as files: which points they have, and why layouts are none."""

import re
from pathlib import Path
from typing import Any

import pytest

from launchers.sweep.points import load_sweep
from megatron_mplug2.config.model import Block
from megatron_mplug2.errors import UserError
from tests.launchers.sweep.sweeps import PROJECT, sweep_of, write_sweep


def test_points_are_the_product_of_what_can_be_run(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, tensor=[1, 2, 3], pipeline=[1, 2], data=[1, 2], microbatch=[16, 32])
    assert [point.layout.name for point in sweep.points] == [
        "n1-t1-p1-d1-mb16-none",
        "n1-t1-p1-d1-mb32-none",
        "n1-t1-p1-d2-mb16-none",
        "n1-t1-p2-d1-mb16-none",
        "n1-t1-p2-d1-mb32-none",
        "n1-t2-p1-d1-mb16-none",
        "n1-t2-p1-d1-mb32-none",
    ]
    reasons = {skipped.name: skipped.reason for skipped in sweep.skipped}
    assert len(reasons) == 24 - 7
    assert reasons["n1-t2-p2-d1-mb16-none"] == "tensor 2 x pipeline 2 x data 1 = 4 ranks do not fill 1 node of 2"
    assert "training.global_batch=32 is not a multiple of training.microbatch=32 x layout.data=2" in reasons["n1-t1-p1-d2-mb32-none"]
    assert all("\n" not in reason for reason in reasons.values())


def test_a_layout_that_the_model_cannot_have_is_told(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, node_ranks=3, tensor=[1, 3], data=[1])
    assert [(skipped.name, skipped.reason) for skipped in sweep.skipped] == [
        ("n1-t3-p1-d1-mb16-none", "layout.tensor=3 does not divide model.vision.heads=4")
    ]


def test_data_fills_the_nodes(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, nodes=[1, 2, 4], node_ranks=4, tensor=[2], pipeline=[1, 2, 16], batch=128)
    assert [(point.layout.nodes, point.layout.pipeline, point.layout.data) for point in sweep.points] == [
        (1, 1, 2),
        (1, 2, 1),
        (2, 1, 4),
        (2, 2, 2),
        (4, 1, 8),
        (4, 2, 4),
    ]
    assert sweep.skipped[0].reason == "tensor 2 x pipeline 16 does not divide the 4 ranks of 1 node of 4"


def test_how_the_batch_follows_the_ranks(tmp_path: Path) -> None:
    strong = sweep_of(tmp_path, data=[1, 2])
    weak = sweep_of(tmp_path, data=[1, 2], scaling="weak")
    assert [point.run.training.global_batch for point in strong.points] == [32, 32]
    assert [point.run.training.global_batch for point in weak.points] == [32, 64]


def test_a_point_is_a_short_run_of_its_own(tmp_path: Path) -> None:
    first, second = sweep_of(tmp_path, tensor=[1, 2], data=[1], recompute=["full"]).points
    run = second.run
    assert (run.steps, run.training.log_every, run.training.validate_every, run.training.checkpoint_every) == (6, 1, 0, 6)
    assert (run.layout.sequence_parallel, run.optimizer.warmup_steps, run.training.recompute) == (True, 0, tuple(Block))
    assert first.run.run_dir.parent == tmp_path / "state/points" and first.run.run_dir != second.run.run_dir
    changed = sweep_of(
        tmp_path, tensor=[1, 2], data=[1], recompute=["full"], overrides=["data.workers=1", "schedule=[{steps: 1, text: 1}]"]
    )
    assert changed.points[0].run.run_dir != first.run.run_dir, "what was measured with another config is not taken for this one's"


def test_the_examples_are_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    strong, weak = (load_sweep(Path(f"configs/sweep/demo_{scaling}.yaml")) for scaling in ("strong", "weak"))
    assert {point.layout.ranks for point in strong.points} == {1, 2, 4} == {point.layout.ranks for point in weak.points}
    assert len(strong.points) == 11 and len(strong.skipped) == 5 and len(weak.points) == 6 and not weak.skipped


def test_the_example_of_a_cluster_is_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    cluster = load_sweep(Path("configs/sweep/h200_strong.yaml"))
    assert {point.layout.nodes for point in cluster.points} == {1, 2, 4, 8}


def test_layouts_that_do_not_fit_a_gpu_are_left_out(tmp_path: Path) -> None:
    large = {"config": str(PROJECT / "configs/pretrain/large.yaml"), "batch": 1024, "node_ranks": 8, "recompute": ["none", "full"]}
    clips = "schedule=[{steps: 1, video_text: 1, frames: 4, resolution: 224}]"
    sweep = sweep_of(tmp_path, **large, overrides=[clips], gpu="L4")
    assert [point.layout.recompute for point in sweep.points] == ["full"]
    assert re.fullmatch(r"a rank needs about \d+\.\d GB, and L4 has 24", sweep.skipped[0].reason)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"microbach": [1]}, "microbach: unknown key; did you mean microbatch?"),
        ({"scaling": "both"}, "scaling: input should be 'strong' or 'weak'"),
        ({"warmup_steps": 6}, "warmup_steps=6 leaves none of steps=6 to be measured: lower it"),
        ({"tensor": [1, 1]}, "tensor names a size twice: take one out"),
        ({"tensor": [0]}, "tensor.0: input should be greater than 0"),
        ({"overrides": []}, "mixes text, image_text, whose steps are of different work"),
        (
            {"tensor": [3], "node_ranks": 3},
            "none of its 1 layouts can be run; the first, n1-t3-p1-mb16-none: layout.tensor=3 does not divide",
        ),
        ({"gpu": "H2000"}, "gpu=H2000 is not known, those are V100, A100, "),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as error:
        sweep_of(tmp_path, **keys)
    assert str(error.value).startswith(str(tmp_path / "sweep.yaml")) and "\n" not in str(error.value)


def test_a_mistake_in_the_runs_config_is_the_sweeps(tmp_path: Path) -> None:
    """And not a reason to skip every layout."""
    path = write_sweep(tmp_path, overrides=["training.mircobatch=1"])
    with pytest.raises(UserError, match=r"demo\.yaml: training\.mircobatch: unknown key"):
        load_sweep(path)
