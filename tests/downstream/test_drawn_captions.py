"""Captions on the demo's clips, from a short pretraining: finetuned by likelihood they beat what it says itself, by CIDEr they get better
still. A step of drawn captions is the same on one rank and on two."""

import json
from pathlib import Path

import pytest

from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.downstream.finetune import finetune
from megatron_mplug2.downstream.measures import measure
from megatron_mplug2.errors import UserError
from megatron_mplug2.observability.sections import SectionClock
from megatron_mplug2.training import checkpoints, loop
from megatron_mplug2.training.engines import make_engine
from tests.config.test_finetune_configs import FOLDER
from tests.downstream.test_finetune import config_of, run
from tests.training import test_resume as runs
from tests.training.corpus import demo_config, make_corpus

DRAWN = ("downstream.caption_loss=cider", "objectives.lm.averaging=sum", "objectives.lm.instructions=4")
ALL = "training.validation_batches=2"
"""All 16 clips of the validation split."""


def judge(config: RunConfig) -> None:
    """Writes the figures of the weights that a run begins with, or has come to."""
    engine = make_engine(config, SectionClock())
    checkpoints.start(engine)
    with engine.evaluated():
        config.run_dir.mkdir(parents=True, exist_ok=True)
        (config.run_dir / "judged.json").write_text(json.dumps(measure(engine)))


def cider_of(config: RunConfig) -> float:
    run(config, judge)
    return float(json.loads((config.run_dir / "judged.json").read_text())["video_caption/cider"])


def from_run(place: Path) -> str:
    return f"initialise_from={{checkpoint: {place}, modules: [vision, text, universal, fusion, decoder, heads.lm]}}"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def pretrained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder."""
    run_dir = tmp_path_factory.mktemp("pretrained")
    steps = "schedule=[{steps: 40, image_text: 1, video_text: 1, frames: 4, resolution: 32}]"
    run(demo_config(corpus, run_dir, [*runs.NO_DROPOUT, steps]), loop.pretrain)
    return run_dir


@pytest.mark.long
def test_finetuned_captions_beat_those_of_the_pretraining_and_drawn_ones_go_further(corpus: Path, pretrained: Path, tmp_path: Path) -> None:
    often = ["training.validate_every=20", "downstream.best=null", ALL]
    taught = config_of("demo_caption", corpus, tmp_path / "taught", [from_run(pretrained), "schedule.0.steps=60", *often])
    before = cider_of(config_of("demo_caption", corpus, tmp_path / "before", [from_run(pretrained), ALL]))
    run(taught)
    after = cider_of(taught)
    assert after > before + 20
    drawn = config_of("demo_caption", corpus, tmp_path / "drawn", [from_run(tmp_path / "taught"), "schedule.0.steps=40", *often, *DRAWN])
    run(drawn)
    assert cider_of(drawn) > after + 5


@pytest.mark.long
def test_drawn_captions_are_the_same_on_two_ranks_and_after_a_kill(corpus: Path, pretrained: Path, tmp_path: Path) -> None:
    keys = [from_run(pretrained), *DRAWN, "training.validate_every=8"]
    one, two, killed = (
        config_of("demo_caption", corpus, tmp_path / name, [*keys, layout])
        for name, layout in (("one", "layout.data=1"), ("two", "layout.data=2"), ("killed", "layout.data=2"))
    )
    run(one)
    run(two)
    runs.run_until(killed, 5, runs.kill, finetune)
    run(killed)
    expected, found = runs._figures(one), runs._figures(two)
    assert sorted(expected) == sorted(found) == list(range(8))
    for step, figures in expected.items():
        for name in ("loss/lm", "grad_norm"):
            assert found[step][name] == pytest.approx(figures[name], rel=1e-3, abs=1e-4), (step, name)
    assert any(float(figures["loss/lm"]) != 0 for figures in expected.values())
    assert runs._figures(killed) == found


def test_what_does_not_go_with_drawn_captions() -> None:
    """Told with all other mistakes, before anything starts."""
    with pytest.raises(UserError) as caught:
        load_config(FOLDER / "demo_caption.yaml", ["downstream.caption_loss=cider", "training.ema=0.9", "layout.pipeline=2"])
    said = str(caught.value)
    assert "objectives.lm.averaging=sum" in said and "training.ema=0.9" in said and "layout.pipeline=2" in said
    with pytest.raises(UserError, match=r"downstream\.family=video_qa has no captions"):
        load_config(FOLDER / "demo_qa.yaml", ["downstream.caption_loss=cider", "objectives.lm.averaging=sum"])
