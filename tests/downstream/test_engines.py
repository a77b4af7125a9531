"""Both engines through `mplug2 finetune` on the demo's real media. What a single step comes to: tests/training/deepspeed."""

from pathlib import Path

import pytest

from megatron_mplug2.checkpoint import commit
from megatron_mplug2.downstream.finetune import finetune
from tests.downstream.finetuning import config_of, lines, run
from tests.training import runs
from tests.training.corpus import make_corpus

STEPS = 20
ENGINES = {
    "megatron": ("training.engine=megatron",),
    **{f"zero{stage}": ("training.engine=deepspeed", f"deepspeed.zero_stage={stage}") for stage in (1, 2, 3)},
}
LOSS = 1e-5
"""Relative."""


@pytest.mark.long
def test_engines_answer_questions_with_the_same_losses_over_a_kill(tmp_path: Path) -> None:
    """The first twenty steps in fp32 on two data-parallel ranks; each engine is killed in the middle, and goes on from its checkpoint."""
    corpus = make_corpus(tmp_path / "corpus")
    losses: dict[str, list[float]] = {}
    for engine, keys in ENGINES.items():
        often = [f"schedule.0.steps={STEPS}", "training.checkpoint_every=5", f"training.validate_every={STEPS}"]
        config = config_of("demo_qa", corpus, tmp_path / engine, [*often, "layout.data=2", *keys])
        runs.run_until(config, 8, runs.kill, finetune)
        killed_after = commit.latest(config.run_dir / "checkpoints")
        assert killed_after is not None and killed_after < STEPS
        run(config)
        figures = runs.figures_of(config)
        assert sorted(figures) == list(range(STEPS))
        losses[engine] = [float(figures[step]["loss/lm"]) for step in range(STEPS)]
        assert len(lines(config, "validation")) == 1
    for engine in ENGINES:
        assert losses[engine] == pytest.approx(losses["megatron"], rel=LOSS), engine
    assert losses["megatron"][-1] < losses["megatron"][0]
