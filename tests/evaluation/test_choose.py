"""`mplug2 predict` of a run that was finetuned on a closed list says what its evaluation says, over real files of every family."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from launchers.local import launch
from megatron_mplug2.config.downstream import Family
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.conversion.checkpoints import checkpoint_to_folder
from megatron_mplug2.data.labelling import labelling_of
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.streams import open_stream
from megatron_mplug2.data.views import evaluation_views
from megatron_mplug2.evaluation import model
from megatron_mplug2.evaluation.answer_list import read_answers
from megatron_mplug2.evaluation.class_batches import ClassSamples
from megatron_mplug2.evaluation.classify import make_classifier
from megatron_mplug2.evaluation.evaluate import FamilyNames, evaluate
from tests.data.corpus import Sample, clip, picture
from tests.data.labelled import CLASSES, label_of, labelled_config, sample
from tests.evaluation.families.corpus import family_config, write_splits
from tests.test_predict_command import Done, command, refusal, save

SAMPLES = 6


def finetuned(folder: Path, family: Family, samples: Sequence[Sample], classes: tuple[str, ...] = CLASSES, **changes: Any) -> RunConfig:
    """A run with a checkpoint, evaluated."""
    config = labelled_config(folder, family, list(samples), classes, **changes)
    if classes != CLASSES:
        config.data.vocab.write_text(config.data.vocab.read_text() + "".join(f"{name}\n" for name in classes))
    launch(config, lambda config: save(config, 1))
    launch(config, evaluate)
    return config


def samples_of(family: Family) -> list[Sample]:
    return [sample(family, number, label_of(number)) for number in range(SAMPLES)]


def evaluated(config: RunConfig) -> list[dict[str, Any]]:
    assert config.downstream is not None
    names = FamilyNames.of(config.downstream.family, trained=True)
    return [json.loads(line) for line in (config.run_dir / names.predictions).read_text().splitlines()]


def files_of(folder: Path, samples: Sequence[Sample], form: str) -> list[Path]:
    """Of a pair two."""
    files = []
    for number, one in enumerate(samples):
        for part, media in (("a", one.media), ("b", one.second)):
            if media:
                files.append(folder / f"{number}{part}.{form}")
                files[-1].write_bytes(media)
    return files


def probabilities(config: RunConfig) -> torch.Tensor:
    """[samples, classes] by the evaluation's own path: means over its views."""
    found: list[torch.Tensor] = []

    def classify(config: RunConfig) -> None:
        inference, _ = model.trained(config, config.run_dir)
        labelling, downstream = labelling_of(config), config.downstream
        assert labelling is not None and downstream is not None and downstream.classes is not None
        task, classifier = downstream.family.task, make_classifier(inference, config, labelling)
        manifest, topology = open_stream(config.data, Split.TEST, task), inference.context.topology
        samples = ClassSamples(config=config, split=Split.TEST, task=task, manifest=manifest, topology=topology, most=SAMPLES)
        views = evaluation_views(downstream.classes.segments, downstream.classes.crops)
        found.append(torch.stack([batch.probabilities for view in views for batch in samples.classified(classifier, view)]).mean(dim=0))

    launch(config, classify)
    return found[0]


def check(done: Done, names: Sequence[object], rows: torch.Tensor) -> list[str]:
    """The five likeliest of each row by falling probability, behind its name; the first of them."""
    assert (done.code, done.err) == (0, ""), done
    lines = [line.removeprefix(f"{name}: ") for line, name in zip(done.out.splitlines(), names, strict=True)]
    for line, row in zip(lines, rows.tolist(), strict=True):
        told = {part.rsplit(" ", 2)[0]: float(part.removesuffix(" %").rsplit(" ", 1)[1]) for part in line.split(", ")}
        assert len(told) == 5 and list(told.values()) == sorted(told.values(), reverse=True)
        assert told == pytest.approx({name: 100 * row[CLASSES.index(name)] for name in told}, abs=0.06)
        assert min(told.values()) >= 100 * sorted(row)[-5] - 0.06
    return [line.split(", ")[0].rsplit(" ", 2)[0] for line in lines]


def test_clips_get_the_classes_of_the_evaluation(tmp_path: Path) -> None:
    """Means over two choices of frames and three crops."""
    family, views = Family.VIDEO_CLASSIFICATION, {"segments": 2, "crops": 3}
    config = finetuned(
        tmp_path / "run", family, samples_of(family), CLASSES, **{f"downstream__classes__{name}": count for name, count in views.items()}
    )
    files = files_of(tmp_path, samples_of(family), "mp4")
    found, said = probabilities(config), [line["said"] for line in evaluated(config)]
    assert check(command(config.run_dir, *files), files, found) == said
    assert check(command(config.run_dir, files[1]), [""], found[1:2]) == said[1:2], "of a single file without its name"
    still = tmp_path / "still.jpg"
    still.write_bytes(picture(1))
    assert refusal(config.run_dir, still) == f"{still}: is a picture, but the run classifies clips"
    assert refusal(config.run_dir, files[0], "--question", "what is it ?") == (
        "--question: the run is of video_classification, which says the class and nothing else; leave it out"
    )
    assert refusal(config.run_dir, files[0], "--mode", "sample").startswith(
        "--mode, --beams, --temperature, --top-p and --seed are for free"
    )


def test_a_list_that_has_moved_and_an_exported_folder(tmp_path: Path) -> None:
    family = Family.IMAGE_CLASSIFICATION
    config = finetuned(tmp_path / "run", family, samples_of(family))
    files, classes = files_of(tmp_path, samples_of(family), "jpg"), tmp_path / "run" / "classes.txt"
    done = command(config.run_dir, *files)
    assert check(done, files, probabilities(config)) == [line["said"] for line in evaluated(config)]
    checkpoint_to_folder(config.run_dir, tmp_path / "folder")
    assert command(tmp_path / "folder", *files).out == done.out, "it has the classes"
    assert command(tmp_path / "folder", *files, "--answers", classes).out == done.out
    moved = classes.rename(tmp_path / "moved.txt")
    assert refusal(config.run_dir, *files) == f"cannot read the classes in {classes}: No such file or directory"
    assert command(config.run_dir, *files, "--answers", moved).out == done.out


@pytest.mark.parametrize("family", [Family.IMAGE_ENTAILMENT, Family.PAIR_ENTAILMENT])
def test_a_sentence_is_judged(tmp_path: Path, family: Family) -> None:
    samples = samples_of(family)
    config = finetuned(tmp_path / "run", family, samples)
    files, found, said = files_of(tmp_path, samples, "jpg"), probabilities(config), [line["said"] for line in evaluated(config)]
    together = config.pictures
    for number in (0, 3):
        asked: tuple[str | Path, ...] = (*files[number * together :][:together], "--question", samples[number].record.captions[0])
        done = command(config.run_dir, *asked)
        assert check(done, [""], found[number : number + 1]) == [said[number]]
    checkpoint_to_folder(config.run_dir, tmp_path / "folder")
    assert command(tmp_path / "folder", *asked).out == done.out
    assert refusal(config.run_dir, *files) == f"the run is of {family}, which judges a sentence: give it as --question"
    if together == 2:
        told = refusal(config.run_dir, *files[:3], "--question", "it is red")
        assert told == "a pair is two pictures, left and right: 3 files are no pairs, name one more or one less"
        done = command(config.run_dir, files[0], tmp_path / "gone.jpg", *files[:2], "--question", "it is red")
        assert done.code == 2 and done.out.startswith(f"{files[0]} + {files[1]}: ")
        assert done.err.splitlines() == [
            f"{tmp_path / 'gone.jpg'}: no such file or directory",
            "error: 1 of 2 pairs cannot be read (listed above)",
        ]


def test_texts_are_lines_of_files(tmp_path: Path) -> None:
    family = Family.TEXT_CLASSIFICATION
    samples = samples_of(family)
    config = finetuned(tmp_path / "run", family, samples)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join("\t".join(filter(None, (one.record.text, one.record.second_text))) for one in samples) + "\n")
    names = [f"{texts}, line {1 + 2 * number}" for number in range(SAMPLES)]
    done = command(config.run_dir, texts)
    assert check(done, names, probabilities(config)) == [line["said"] for line in evaluated(config)]
    checkpoint_to_folder(config.run_dir, tmp_path / "folder")
    assert command(tmp_path / "folder", texts).out == done.out
    shot = tmp_path / "picture.jpg"
    shot.write_bytes(picture(1))
    assert refusal(config.run_dir, shot).endswith("picture.jpg: is not text in UTF-8 (byte 0): the run classifies texts, one on each line")
    texts.write_text("a\tb\tc\nred\n\u200b\tsecond\n")
    done = command(config.run_dir, texts)
    assert done.code == 2
    assert done.err.splitlines() == [
        f"{texts}, line 1: 2 tabs; write a text, or two with a tab between",
        f"{texts}, line 3: has no first text before its tab",
        "error: 2 of 3 texts cannot be read (listed above)",
    ]
    texts.write_text("\n")
    assert refusal(config.run_dir, texts) == f"{texts}: has no text"


def test_numbers_are_their_mean(tmp_path: Path) -> None:
    family = Family.TEXT_CLASSIFICATION
    samples = [sample(family, number, f"{number % 4 + 0.3:.3f}") for number in range(SAMPLES)]
    config = finetuned(tmp_path / "run", family, samples, ("0", "2", "4"))
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{one.record.text}\t{one.record.second_text}\n" for one in samples))
    lines = command(config.run_dir, texts).out.splitlines()
    numbers = [float(line.rpartition(": ")[2]) for line in lines]
    assert numbers == pytest.approx([float(line["said"]) for line in evaluated(config)], abs=2e-3)


def test_questions_are_answered_from_a_list(tmp_path: Path) -> None:
    """As `mplug2 evaluate --answers` does, of a run of questions."""
    write_splits(tmp_path / "corpus")
    config = family_config(tmp_path / "corpus", tmp_path / "run", Family.VIDEO_QA)
    listed = tmp_path / "answers.txt"
    listed.write_text("".join(f"{name}\n" for name in (*CLASSES, "red", "small", "large", "left", "right")))
    launch(config, lambda config: save(config, 1))
    names = FamilyNames.of(Family.VIDEO_QA, trained=True)
    launch(config, lambda config: _evaluated(config, listed))
    found = [json.loads(line) for line in (config.run_dir / names.predictions).read_text().splitlines()]
    for line in found[:3]:
        file = tmp_path / f"{line['index']}.mp4"
        file.write_bytes(clip(line["index"]))
        done = command(config.run_dir, file, "--question", line["asked"], "--answers", listed)
        assert done.code == 0 and done.out.rsplit(" ", 2)[0].split(", ")[0].rsplit(" ", 2)[0] == line["said"], (done, line)
    assert refusal(config.run_dir, file, "--answers", tmp_path).startswith(f"cannot read the answers in {tmp_path}: ")


def _evaluated(config: RunConfig, listed: Path) -> None:
    evaluate(config, read_answers(listed))
