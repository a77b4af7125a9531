"""What a run writes of its health: section times, the straggler, use of the devices, norms by module."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from launchers.local import launch
from megatron_mplug2.config.model import Module
from megatron_mplug2.training import loop
from megatron_mplug2.training import step as step_module
from megatron_mplug2.training.engine import Engine
from megatron_mplug2.training.step import StepWork, Told
from tests.training.corpus import demo_config, make_corpus

LATE_S = 0.5


@contextmanager
def late_on_rank_1() -> Iterator[None]:
    """Between the arrival of its batch and the first collective, in runs that are started in the block."""
    before = step_module.backward

    def backward(engine: Engine, work: StepWork) -> Told:
        assert torch.are_deterministic_algorithms_enabled()
        if dist.get_rank() == 1:
            time.sleep(LATE_S)
        return before(engine, work)

    setattr(step_module, "backward", backward)  # noqa: B010
    try:
        yield
    finally:
        setattr(step_module, "backward", before)  # noqa: B010


def test_figures_of_a_run_with_a_straggler(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    schedule = "schedule=[{steps: 5, text: 1, resolution: 32}]"
    figures = ["training.log_every=2", "training.peak_tflops=0.1", "training.deterministic=true", "data.workers=0"]
    config = demo_config(corpus, tmp_path / "run", [schedule, *figures])
    with late_on_rank_1():
        launch(config, loop.pretrain)
    said = capfd.readouterr().err
    assert said.count("straggler: rank 1, data wait ") >= 2
    assert "straggler: rank 0" not in said
    assert "effective training time " in said
    lines = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()]
    train, use = ([line for line in lines if line["kind"] == kind] for kind in ("train", "use"))
    assert [line["step"] for line in train] == [line["step"] for line in use] == [1, 3, 4]
    for line in train:
        assert {name for name in line if name.startswith("grad_norm/")} == {f"grad_norm/{module}" for module in Module}
        assert line["weight_norm/vision"] > 0 and line["grad_norm/text"] > 0
        assert line["grad_norm/vision"] == 0, "a task without pictures"
    for line in use:
        assert line["mfu"] == pytest.approx(line["tflops"] / 0.1)
        assert 0 < line["data_wait_share"] < 1 and line["memory_gb"] > 0
        waits = line["sections"]["data wait"]
        assert waits["rank"] == 1 and waits["slowest"] >= LATE_S > waits["median"]
        assert line["sections"]["meeting"]["rank"] == 0, "who waits for the straggler"
