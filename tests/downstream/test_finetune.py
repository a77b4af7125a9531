"""Finetuning as a person runs it, on the demo's real media: trained, validated, judged, stopped early, resumed and evaluated."""

import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from launchers.local import launch
from launchers.ranks import Entry
from megatron_mplug2.checkpoint import commit
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.downstream.finetune import finetune
from megatron_mplug2.downstream.measures import figures
from megatron_mplug2.evaluation.evaluate import evaluate
from tests.config.test_finetune_configs import FOLDER
from tests.training import test_resume as runs
from tests.training.corpus import make_corpus

NOISE = ("model.text.dropout=0.1", "model.text.attention_dropout=0.1", "model.vision.drop_path=0.1")
PATIENCE_S = 280


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def config_of(name: str, corpus: Path, run_dir: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """A demo config of finetuning on this corpus: from nothing, 8 steps, every line logged."""
    streams = [f"data.{split}.video_text=[{corpus}/shards/{split}/video_text]" for split in ("train", "validation", "test")]
    nothing = [f"data.{split}.{stream}=[]" for split in ("train", "validation", "test") for stream in ("text", "image_text")]
    place = [f"data.vocab={corpus}/vocab.txt", f"run_dir={run_dir}", "initialise_from=null"]
    small = ["training.global_batch=8", "training.microbatch=2", "schedule.0.steps=8", "optimizer.warmup_steps=2"]
    often = ["training.log_every=1", "training.checkpoint_every=4", "training.validate_every=4", "training.validation_batches=2"]
    return load_config(FOLDER / f"{name}.yaml", [*streams, *nothing, *place, *small, *often, *overrides])


def run(config: RunConfig, entry: Entry = finetune) -> None:
    process = multiprocessing.get_context("fork").Process(target=launch, args=(config, entry))
    process.start()
    process.join(PATIENCE_S)
    assert process.exitcode == 0


def lines(config: RunConfig, kind: str) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


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
    assert runs._figures(straight) == runs._figures(ended)
    tensors, resumed = runs._tensors(straight), runs._tensors(ended)
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
