"""Families with a closed list as a person runs them, on drawn corpora in the public ones' layouts: trained, judged, resumed, evaluated."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_mplug2.config.downstream import Family
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.downstream.family import check_finetuning
from megatron_mplug2.downstream.finetune import finetune
from megatron_mplug2.downstream.measures import figures, measure
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.evaluate import FamilyNames, evaluate, evaluate_untrained
from megatron_mplug2.observability.sections import SectionClock
from megatron_mplug2.training.engines import make_engine
from tests.config.test_finetune_configs import FOLDER
from tests.data.labelled import labelled_config, sample
from tests.downstream.drawn import VOCABULARY, Drawn, drawn
from tests.downstream.finetuning import lines, run
from tests.training import runs

STEPS = {
    Family.IMAGE_CLASSIFICATION: 20,
    Family.VIDEO_CLASSIFICATION: 20,
    Family.TEXT_CLASSIFICATION: 60,
    Family.IMAGE_ENTAILMENT: 40,
    Family.PAIR_ENTAILMENT: 30,
}
"""Of a batch of 16, twice as many as a family was seen to need."""


def config_of(family: Family, corpus: Drawn, folder: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The family's demo config on this corpus, from nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    task = family.task
    streams = [f"data.train.{task}=[{corpus.train}]", *(f"data.{split}.{task}=[{corpus.held_out}]" for split in ("validation", "test"))]
    place = [f"data.vocab={folder}/vocab.txt", f"run_dir={folder}/run", f"downstream.classes.file={corpus.classes}"]
    small = ["initialise_from=null", "layout.data=1", "training.log_every=1", "data.document_length=16"]
    return load_config(FOLDER / f"demo_{family}.yaml", [*streams, *place, *small, *overrides])


def scores(config: RunConfig, *, trained: bool) -> tuple[dict[str, float], dict[str, float]]:
    """And those of chance."""
    assert config.downstream is not None
    found = json.loads((config.run_dir / FamilyNames.of(config.downstream.family, trained=trained).results).read_text())
    return found["scores"], found["chance"]


def test_texts_are_trained_resumed_and_judged(tmp_path: Path) -> None:
    """A run that was begun and goes on is one that was not; what a validation tells is what was promised."""
    family = Family.TEXT_CLASSIFICATION
    corpus = drawn(family, tmp_path / "corpus")
    short = ["schedule.0.steps=8", "optimizer.warmup_steps=2", "training.validate_every=4", "training.checkpoint_every=4"]
    small = ["training.global_batch=8", "training.microbatch=8", "training.validation_batches=2"]
    straight = config_of(family, corpus, tmp_path / "straight", [*short, *small])
    begun = config_of(family, corpus, tmp_path / "begun", [*short, *small])
    run(straight)
    runs.run_until(begun, 5, runs.kill, finetune)
    run(begun)
    first, second = lines(straight, "validation")
    assert first.keys() == {"kind", "step", *figures(straight)}
    assert {f"{family}/{name}" for name in ("accuracy", "F1", "Matthews")} < first.keys()
    assert lines(begun, "validation") == [first, second]
    assert runs.figures_of(straight) == runs.figures_of(begun)
    run(straight, evaluate)
    found, by_chance = scores(straight, trained=True)
    assert list(found) == ["accuracy", "F1", "Matthews"] and by_chance["accuracy"] == 50


def test_what_is_said_before_a_run(tmp_path: Path) -> None:
    family = Family.TEXT_CLASSIFICATION
    corpus = drawn(family, tmp_path / "corpus")
    check_finetuning(config_of(family, corpus, tmp_path))
    with pytest.raises(UserError, match=r"^downstream\.classes\.prompts are for `mplug2 evaluate`"):
        check_finetuning(config_of(Family.IMAGE_CLASSIFICATION, corpus, tmp_path, ["downstream.classes.prompts=['a {}']"]))
    with pytest.raises(UserError, match=r"top-1 is no figure .* there are text/loss/lm, text_classification/accuracy, .*F1, .*Matthews$"):
        check_finetuning(config_of(family, corpus, tmp_path, [f"downstream.best.figure={family}/top-1"]))
    with pytest.raises(UserError, match=r"^cannot read the classes in nowhere\.txt: No such file"):
        check_finetuning(config_of(family, corpus, tmp_path, ["downstream.classes.file=nowhere.txt"]))
    (tmp_path / "long.txt").write_text("negative\nthe film is wonderful and moving and clever\n")
    with pytest.raises(UserError, match=r"long\.txt, line 2: .* is 8 tokens, but the decoder says 1 to 6"):
        check_finetuning(config_of(family, corpus, tmp_path, [f"downstream.classes.file={tmp_path}/long.txt"]))


def write_measures(config: RunConfig) -> None:
    """Of a random model on the validation split."""
    engine = make_engine(config, SectionClock())
    with engine.evaluated():
        found = measure(engine)
    if engine.topology.rank == 0:
        config.run_dir.mkdir()
        (config.run_dir / "measured.json").write_text(json.dumps(found))


def test_a_validation_passes_over_what_cannot_be_judged(tmp_path: Path) -> None:
    """A sample without a sentence, one without a label, and one whose label is not in the list; the others have one class."""
    family = Family.IMAGE_ENTAILMENT
    samples = [sample(family, number, label) for number, label in enumerate(["up", "up", None, "purple", "up"])]
    samples[1] = replace(samples[1], record=replace(samples[1].record, captions=()))
    measured = []
    for name, kept in (("all", samples), ("good", [samples[0], samples[4]])):
        config = labelled_config(tmp_path / name, family, kept, ("up", "green"), training__validation_batches=1)
        run(config, write_measures)
        measured.append(json.loads((config.run_dir / "measured.json").read_text()))
    assert measured[0] == measured[1] and list(measured[0]) == [f"{family}/accuracy"]


@pytest.mark.long
@pytest.mark.parametrize("family", STEPS)
def test_a_family_beats_chance_and_its_own_start(family: Family, tmp_path: Path) -> None:
    often = [f"schedule.0.steps={STEPS[family]}", f"training.validate_every={STEPS[family]}", "training.log_every=10"]
    small = ["training.global_batch=16", "training.microbatch=16", "optimizer.warmup_steps=5"]
    config = config_of(family, drawn(family, tmp_path / "corpus"), tmp_path, [*often, *small])
    run(config, evaluate_untrained)
    run(config)
    run(config, evaluate)
    (before, by_chance), (after, _) = scores(config, trained=False), scores(config, trained=True)
    name = next(iter(after))
    assert after[name] > before[name] + 20 and after[name] > by_chance[name] + 20 and after[name] > 85
