"""Finetuning as a person runs it, on the demo's real media: trained, validated, judged, stopped early, resumed and evaluated."""

import json
from pathlib import Path

import pytest
import torch

from megatron_mplug2.checkpoint import commit
from megatron_mplug2.downstream.finetune import finetune
from megatron_mplug2.downstream.measures import figures
from megatron_mplug2.evaluation.evaluate import evaluate
from tests.downstream.finetuning import config_of, lines, run
from tests.training import runs
from tests.training.corpus import make_corpus

NOISE = ("model.text.dropout=0.1", "model.text.attention_dropout=0.1", "model.vision.drop_path=0.1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def test_answers_are_trained_until_patience_ends_and_the_best_are_evaluated(corpus: Path, tmp_path: Path) -> None:
    """At a rate of nothing no validation is better than the first: its checkpoint stays, and the second ends the run."""
    still = ["optimizer.lr=1e-30", "optimizer.min_lr=0", "downstream.best={figure: video_text/loss/lm, better: lower, patience: 1}"]
    config = config_of(
        "demo_qa", corpus, tmp_path / "run", [*still, "training.keep_checkpoints=1", "training.validate_every=2", "layout.data=1"]
    )
    run(config)
    assert [line["step"] for line in lines(config, "train")] == [0, 1, 2, 3]
    assert all(line.keys() >= {"loss/lm"} and not line.keys() & {"loss/vlc", "loss/vlm"} for line in lines(config, "train"))
    first, second = lines(config, "validation")
    assert first.keys() == {"kind", "step", *figures(config)} == {"kind", "step", "video_text/loss/lm", "video_qa/exact"}
    assert second["video_text/loss/lm"] == pytest.approx(first["video_text/loss/lm"], abs=1e-5)
    assert commit.committed_steps(config.run_dir / "checkpoints") == [2, 4]
    run(config)  # it is finished
    assert len(lines(config, "train")) == 4
    run(config, evaluate)
    results = json.loads((config.run_dir / "evaluation-video_qa.json").read_text())
    assert results["step"] == 2 and "exact match" in results["scores"]


@pytest.mark.long
def test_a_killed_run_goes_on_bit_for_bit_with_averages_and_best(corpus: Path, tmp_path: Path) -> None:
    """Captions on two data-parallel ranks with ZeRO-1, dropout, averages, smoothing, layer-wise rates."""
    extras = ["training.ema=0.9", "objectives.lm.label_smoothing=0.1", "optimizer.layer_decay=0.8", *NOISE]
    straight, ended = (config_of("demo_caption", corpus, tmp_path / name, extras) for name in ("straight", "ended"))
    run(straight)
    runs.run_until(ended, 5, runs.kill, finetune)
    run(ended)
    assert [line["step"] for line in lines(straight, "validation")] == [3, 7]
    assert lines(straight, "validation") == lines(ended, "validation")
    assert runs.figures_of(straight) == runs.figures_of(ended)
    tensors, resumed = runs.tensors_of(straight), runs.tensors_of(ended)
    assert any(key.startswith("average/") for key in tensors) and tensors.keys() == resumed.keys()
    assert all(torch.equal(tensors[key], resumed[key]) for key in tensors)
    run(ended, evaluate)
    assert (ended.run_dir / "evaluation-video_caption.json").exists()


@pytest.mark.long
def test_retrieval_is_trained_on_a_pipeline(corpus: Path, tmp_path: Path) -> None:
    """Of two stages, whose decoder has nothing to do."""
    weights = ["objectives.vlc.weight=1", "objectives.vlm={weight: 1, group: 2}", "objectives.lm.weight=0"]
    family = ["downstream={family: video_retrieval, best: {figure: video_text/loss/vlm}}", "training.frozen=[decoder]"]
    layout = ["layout.data=1", "layout.pipeline=2"]
    config = config_of("demo_qa", corpus, tmp_path / "run", [*weights, *family, *layout])
    run(config)
    first, second = lines(config, "validation")
    assert first.keys() == {"kind", "step", *figures(config)} == {"kind", "step", "video_text/loss/vlc", "video_text/loss/vlm"}
    assert second["video_text/loss/vlm"] < first["video_text/loss/vlm"]
