"""What an evaluation of a family with a closed list writes, on real folders of real media, that no layout changes it, and bad input."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launchers.local import launch
from megatron_mplug2.config.downstream import Family
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.evaluate import evaluate_untrained
from tests.data.corpus import Sample
from tests.data.labelled import CLASSES, label_of, labelled_config, sample
from tests.evaluation.families.written import written

SAMPLES = 13
BAD = 6
"""Number of the sample that cannot be decoded."""
USABLE = [number for number in range(SAMPLES) if number != BAD]


def samples_of(family: Family) -> list[Sample]:
    samples = [sample(family, number, label_of(number)) for number in range(SAMPLES)]
    samples[BAD] = replace(samples[BAD], media=samples[BAD].media[:200])
    return samples


def on(config: RunConfig, ranks: int) -> RunConfig:
    """On so many data-parallel ranks, in a run folder of its own."""
    layout = config.layout.model_copy(update={"data": ranks})
    return config.model_copy(update={"layout": layout, "run_dir": config.run_dir.with_name(f"run-{ranks}")})


def evaluated(config: RunConfig) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    launch(config, evaluate_untrained)
    assert config.downstream is not None
    return written(config, config.downstream.family)


def right(lines: list[dict[str, Any]]) -> float:
    return 100 * sum(line["said"] == line["references"][0] for line in lines) / len(lines)


def test_clips_are_classified_once_on_any_layout(tmp_path: Path) -> None:
    """In two choices of frames and three crops."""
    family = Family.VIDEO_CLASSIFICATION
    config = labelled_config(tmp_path, family, samples_of(family), downstream__classes__segments=2, downstream__classes__crops=3)
    results, lines = evaluated(on(config, 1))
    assert [line["index"] for line in lines] == USABLE and {line["kind"] for line in lines} == {"class"}
    assert {line["said"] for line in lines} <= set(CLASSES)
    assert all(line["score"] == 100.0 * (line["said"] == line["references"][0]) for line in lines)
    assert (results["samples"], list(results["left_out"])) == (SAMPLES - 1, [f"pair-{BAD:04d}"])
    assert list(results["scores"]) == ["top-1", "top-5"] and results["scores"]["top-1"] == pytest.approx(right(lines))
    most = Counter(line["references"][0] for line in lines).most_common(1)[0][1]
    assert results["chance"] == {"top-1": pytest.approx(100 * most / len(lines))}
    assert results["notes"] == ["probabilities are means over 6 views"]
    for ranks in (2, 3):
        assert evaluated(on(config, ranks)) == (results, lines)


@pytest.mark.parametrize("family", [Family.PAIR_ENTAILMENT, Family.TEXT_CLASSIFICATION])
def test_pairs_and_texts_are_judged_by_accuracy(tmp_path: Path, family: Family) -> None:
    config = labelled_config(tmp_path, family, samples_of(family))
    results, lines = evaluated(on(config, 1))
    usable = USABLE if family is Family.PAIR_ENTAILMENT else list(range(SAMPLES))
    assert [line["index"] for line in lines] == usable and all(line["asked"] for line in lines)
    assert list(results["scores"]) == ["accuracy"] and results["scores"]["accuracy"] == pytest.approx(right(lines))
    assert evaluated(on(config, 2)) == (results, lines)


def test_numbers_are_told_and_correlated(tmp_path: Path) -> None:
    family = Family.TEXT_CLASSIFICATION
    samples = [sample(family, number, f"{number % 4 + 0.3:.3f}") for number in range(SAMPLES)]
    config = labelled_config(tmp_path, family, samples, ("0", "2", "4"))
    config.data.vocab.write_text(config.data.vocab.read_text() + "0\n2\n4\n")
    results, lines = evaluated(on(config, 1))
    assert list(results["scores"]) == ["Pearson", "Spearman"] and not results["chance"]
    for line in lines:
        assert 0 < float(line["said"]) < 4
        assert line["score"] == pytest.approx(100 * (1 - abs(float(line["said"]) - float(line["references"][0])) / 4), abs=0.01)
    more, others = evaluated(on(config, 3))
    assert others == lines and more["scores"] == pytest.approx(results["scores"])


def test_zero_shot_says_so(tmp_path: Path) -> None:
    family = Family.IMAGE_CLASSIFICATION
    config = labelled_config(tmp_path, family, samples_of(family), downstream__classes__prompts=["the image is {}"])
    results, lines = evaluated(on(config, 1))
    assert results["notes"] == ["zero-shot, by VLC with 'the image is {}'"]
    assert results["scores"]["top-1"] == pytest.approx(right(lines)) and len({line["said"] for line in lines}) > 1
    assert evaluated(on(config, 2)) == (results, lines)


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("purple", r"the label 'purple' is not among the classes of .*classes\.txt; add it there$"),
        (None, r"no label$"),
        ("\u200b", r"no label$"),
    ],
)
def test_a_label_that_cannot_be_judged_is_told_by_its_row(tmp_path: Path, label: str | None, told: str) -> None:
    family = Family.IMAGE_CLASSIFICATION
    samples = [sample(family, number, label if number == 3 else "up") for number in range(5)]
    config = on(labelled_config(tmp_path, family, samples), 2)
    with pytest.raises(UserError, match=rf"^data\.test\.image_text, sample 3 \(pair-0003 in labelled/00000\.tar\): {told}"):
        launch(config, evaluate_untrained)
    assert not list(tmp_path.glob("run-2/*.json*"))


def test_a_class_that_the_decoder_cannot_say(tmp_path: Path) -> None:
    family = Family.IMAGE_CLASSIFICATION
    config = labelled_config(tmp_path, family, [sample(family, 0, "up")], ("up", "a red circle is the large red circle"))
    with pytest.raises(UserError, match=r"classes\.txt, line 2: .* is 8 tokens, but the decoder says 1 to 7"):
        launch(on(config, 1), evaluate_untrained)
