"""Captions of the demo's pictures, from a short pretraining: finetuned by likelihood they beat what it says, by CIDEr they get better
still. A step of drawn captions is the same on one rank and on two."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from data_tools.demo.make import Sizes, make_demo
from data_tools.splits import Split
from data_tools.tokenizer import train_tokenizer
from launchers.ranks import Entry
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data import split as streams
from megatron_mplug2.data.evaluation_batches import evaluation_batches
from megatron_mplug2.data.streams import open_stream
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.downstream.finetune import finetune
from megatron_mplug2.downstream.measures import measure
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.captions import CaptionPrediction, cider
from megatron_mplug2.evaluation.generation.settings import Decoding, Mode
from megatron_mplug2.evaluation.generation.speaker import Speaker
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.observability.sections import SectionClock
from megatron_mplug2.training import checkpoints, loop
from megatron_mplug2.training.engines import make_engine
from tests.config.test_finetune_configs import FOLDER
from tests.data_tools.sharding import sharded
from tests.downstream.finetuning import run
from tests.training import runs
from tests.training.corpus import DEMO

DRAWN = ("downstream.caption_loss=cider", "objectives.lm.averaging=sum", "objectives.lm.instructions=8", "optimizer.lr=3e-4")
OTHERS = ("training.ema=0.9", "training.spike_factor=3", "layout.pipeline=2")
SPLITS = ("train", "validation", "test")


def make_pictures(folder: Path) -> Path:
    """The demo's pictures, more of them than its other tests have: shards and a vocabulary in a folder."""
    counts = {Split.TRAIN: 160, Split.VALIDATION: 32, Split.TEST: 16}
    sizes = {split: Sizes(motions=2, orders=1, pictures=count, documents=8) for split, count in counts.items()}
    make_demo(folder / "media", seed=0, sizes=sizes)
    sharded("demo", folder / "media", folder / "media", folder / "shards")
    train_tokenizer([folder / "shards"], folder / "vocab.txt", size=300)
    return folder


def picture_config(file: Path, corpus: Path, run_dir: Path, overrides: Sequence[str]) -> RunConfig:
    """On pictures alone, on one rank, judged on all 32 of the validation split."""
    streams = [f"data.{split}={{text: [], image_text: [{corpus}/shards/{split}/image_text], video_text: []}}" for split in SPLITS]
    place = [f"data.vocab={corpus}/vocab.txt", f"run_dir={run_dir}", "layout.data=1"]
    small = ["training.global_batch=16", "training.microbatch=8", "training.validation_batches=2", "optimizer.warmup_steps=5"]
    steps = ["schedule=[{steps: 8, image_text: 1, resolution: 32}]", "training.log_every=1", "training.checkpoint_every=4"]
    return load_config(file, [*streams, *place, *small, *steps, *overrides])


def caption_config(corpus: Path, run_dir: Path, begun: Path, *overrides: str) -> RunConfig:
    """Of a run that begins with another's weights."""
    weights = f"initialise_from={{checkpoint: {begun}, modules: [vision, text, universal, fusion, decoder, heads.lm]}}"
    family = ["downstream.family=image_caption", "downstream.best=null", "training.validate_every=0"]
    return picture_config(FOLDER / "demo_caption.yaml", corpus, run_dir, [weights, *family, *overrides])


def judge(config: RunConfig) -> None:
    """Writes the figure of the weights that a run begins with, or has come to."""
    engine = make_engine(config, SectionClock())
    checkpoints.start(engine)
    with engine.evaluated():
        config.run_dir.mkdir(parents=True, exist_ok=True)
        (config.run_dir / "judged.json").write_text(json.dumps(measure(engine)))


def judge_drawn(config: RunConfig) -> None:
    """The same of captions that are drawn from these weights for pictures of the training split: what is rewarded."""
    engine = make_engine(config, SectionClock())
    checkpoints.start(engine)
    with engine.evaluated():
        inference = Inference(engine.stage, engine.context)
        tokenizer = Tokenizer(config.data.vocab, config.model.text.vocab_size)
        speaker = Speaker(inference, tokenizer, config, Decoding(mode=Mode.SAMPLE, seed=7))
        manifest, said = open_stream(config.data, streams.Split.TRAIN, Task.IMAGE_TEXT), []
        for batch in evaluation_batches(config, streams.Split.TRAIN, Task.IMAGE_TEXT, data_rank=0, data_size=1, batch=40):
            indices = batch.indices.tolist()
            texts = speaker.captions(inference.encode_media(batch.media, Task.IMAGE_TEXT), Task.IMAGE_TEXT, indices)
            told = [manifest.record(index).captions for index in indices]
            said += [
                CaptionPrediction(index=index, said=text, references=references, attributes={})
                for index, text, references in zip(indices, texts, told, strict=True)
            ]
    config.run_dir.mkdir(parents=True, exist_ok=True)
    (config.run_dir / "judged.json").write_text(json.dumps({"image_caption/cider": 100 * cider(said)}))


def cider_of(config: RunConfig, entry: Entry = judge) -> float:
    run(config, entry)
    return float(json.loads((config.run_dir / "judged.json").read_text())["image_caption/cider"])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def pretrained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short pretraining with VLC, VLM and the instruction LM, which leaves much to learn."""
    run_dir = tmp_path_factory.mktemp("pretrained")
    keys = ["schedule.0.steps=30", "objectives.vlm.group=8", "optimizer.lr=1e-3", "training.validate_every=0"]
    run(picture_config(DEMO, corpus, run_dir, keys), loop.pretrain)
    return run_dir


@pytest.fixture(scope="module")
def taught(corpus: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of captions that are finetuned from it by likelihood, until what is drawn is not far from what is likeliest: before that
    a reward says little."""
    run_dir = tmp_path_factory.mktemp("taught")
    run(caption_config(corpus, run_dir, pretrained, "schedule.0.steps=110", "optimizer.lr=2e-3"))
    return run_dir


@pytest.mark.long
def test_finetuned_captions_beat_the_pretrainings_and_those_by_cider_go_further(
    corpus: Path, pretrained: Path, taught: Path, tmp_path: Path
) -> None:
    """By likelihood on held-out pictures. By CIDEr as drawn for pictures of the training split, whose captions are its reward."""
    zero_shot, finetuned = (cider_of(caption_config(corpus, tmp_path / run_dir.name, run_dir)) for run_dir in (pretrained, taught))
    assert finetuned > zero_shot + 30
    before = cider_of(caption_config(corpus, tmp_path / "before", taught), judge_drawn)
    drawn = caption_config(corpus, tmp_path / "drawn", taught, *DRAWN, "schedule.0.steps=24")
    run(drawn)
    assert cider_of(drawn, judge_drawn) > before + 15


@pytest.mark.long
def test_drawn_captions_are_the_same_on_two_ranks_and_after_a_kill(corpus: Path, taught: Path, tmp_path: Path) -> None:
    one, two, killed = (
        caption_config(corpus, tmp_path / name, taught, *DRAWN, layout)
        for name, layout in (("one", "layout.data=1"), ("two", "layout.data=2"), ("killed", "layout.data=2"))
    )
    run(one)
    run(two)
    runs.run_until(killed, 5, runs.kill, finetune)
    run(killed)
    expected, found = runs.figures_of(one), runs.figures_of(two)
    assert sorted(expected) == sorted(found) == list(range(8))
    for step, figures in expected.items():
        for name in ("loss/lm", "grad_norm"):
            assert found[step][name] == pytest.approx(figures[name], rel=1e-3, abs=1e-4), (step, name)
    assert all(float(figures["loss/lm"]) != 0 for figures in expected.values())
    assert runs.figures_of(killed) == found


def test_what_does_not_go_with_drawn_captions() -> None:
    """Told with all other mistakes, before anything starts."""
    with pytest.raises(UserError) as caught:
        load_config(FOLDER / "demo_caption.yaml", ["downstream.caption_loss=cider", *OTHERS])
    said = str(caught.value)
    assert "objectives.lm.averaging=sum" in said and all(other in said for other in OTHERS)
    with pytest.raises(UserError, match=r"downstream\.family=video_qa has no captions"):
        load_config(FOLDER / "demo_qa.yaml", ["downstream.caption_loss=cider", "objectives.lm.averaging=sum"])
