"""Grounding as a person runs it, on pictures of two shapes in RefCOCO's files: trained, validated, killed, resumed and evaluated."""

import json
from pathlib import Path

import pytest

from megatron_mplug2.checkpoint import commit
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.downstream.family import check_finetuning
from megatron_mplug2.downstream.finetune import finetune
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.evaluate import evaluate, evaluate_untrained
from tests.data.test_grounding import grounding_config, make_grounding_corpus
from tests.downstream.finetuning import lines, run
from tests.test_predict_command import command
from tests.training import runs

FIGURE = "accuracy at IoU 0.5"
STEPS = 220


@pytest.mark.long
def test_phrases_are_found_in_pictures(tmp_path: Path) -> None:
    corpus = make_grounding_corpus(tmp_path, {"train": 300, "val": 16, "testA": 24, "testB": 24})
    often = ["training.validate_every=110", "training.log_every=1", "training.checkpoint_every=25", "training.validation_batches=1"]
    config = grounding_config(corpus, tmp_path / "run", [f"schedule.0.steps={STEPS}", *often, "layout.data=2"])
    check_finetuning(config)
    runs.run_until(config, 27, runs.kill, finetune)
    assert commit.latest(config.run_dir / "checkpoints") == 25
    run(config)
    assert sorted(line["step"] for line in lines(config, "validation"))[-1] == STEPS - 1
    run(config, evaluate_untrained)
    run(config, evaluate)
    start, end = (json.loads((config.run_dir / f"evaluation-image_grounding{name}.json").read_text()) for name in ("-untrained", ""))
    check_prediction(config, corpus)
    assert end["scores"][FIGURE] > 1.5 * end["chance"][FIGURE] + 10
    assert end["scores"][FIGURE] > start["scores"][FIGURE] + 25


def check_prediction(config: RunConfig, corpus: Path) -> None:
    """`mplug2 predict --question PHRASE` of a picture of the test split says a box in the file's own pixels."""
    said = [json.loads(line) for line in (config.run_dir / "predictions-image_grounding.jsonl").read_text().splitlines()]
    line = next(line for line in said if line["score"] > 0)
    picture = corpus / "media/train2014" / f"{line['key'].partition('-')[2]}.jpg"
    done = command(config.run_dir, picture, "--question", line["asked"])
    assert done.code == 0, done.err
    assert [int(number) for number in done.out.split()] == [2 * int(number) for number in line["said"].split()]


def test_a_vocabulary_without_numbers_is_told(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "1", "##1", "0", "##0"]) + "\n")
    config = grounding_config(tmp_path, tmp_path / "run", [])
    Tokenizer(config.data.vocab, config.model.text.vocab_size)
    with pytest.raises(UserError, match=r"vocab\.txt cannot write the number 2, which boxes need"):
        check_finetuning(config)


def test_what_moves_a_box_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.randaugment\.operations=2 moves what boxes stand around: set it to 0"):
        grounding_config(tmp_path, tmp_path, ["data.randaugment.operations=2"])
    with pytest.raises(UserError, match=r"data\.target_length=9 must be 10 or more: four numbers up to 32"):
        grounding_config(tmp_path, tmp_path, ["data.target_length=9"])
