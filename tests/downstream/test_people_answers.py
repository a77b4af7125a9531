"""Ten people's answers, from VQAv2's own files through shards and batches to the loss: each weighs what its people are of the ten."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from data_tools.tokenizer import train_tokenizer
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.assemble import pair_batch
from megatron_mplug2.data.draws import SampleDraws
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.parcel import stacked_on_arrival
from megatron_mplug2.data.samples import SampleReader
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.objectives.counts import local_counts
from megatron_mplug2.objectives.result import Objective
from tests.data_tools.sharding import sharded
from tests.downstream.finetuning import config_of, lines, run
from tests.training import runs

PICTURES = 8
SAID = {
    "what color is it?": ["red"] * 7 + ["dark red", "Red", "maroon"],
    "is it round?": ["yes"] * 10,
    "what is it?": ["circle"] * 4 + ["disc"] * 3 + ["ball", "dot", "a dot"],
}
SHARES = {"red": 0.8, "dark red": 0.1, "maroon": 0.1, "yes": 1.0, "circle": 0.4, "disc": 0.3, "ball": 0.1, "dot": 0.1, "a dot": 0.1}


def make_vqa(folder: Path) -> Path:
    """VQAv2's files about grey pictures, shards and a vocabulary; returns the folder."""
    (folder / "train2014").mkdir(parents=True)
    for number in range(PICTURES):
        Image.new("RGB", (48, 48), (30 * number,) * 3).save(folder / f"train2014/COCO_train2014_{number:012d}.jpg")
    numbered = [(10 * picture + place, picture, question) for picture in range(PICTURES) for place, question in enumerate(SAID)]
    questions = [{"question_id": number, "image_id": picture, "question": question} for number, picture, question in numbered]
    annotations = [
        {"question_id": number, "image_id": picture, "answer_type": "other", "answers": [{"answer": answer} for answer in SAID[question]]}
        for number, picture, question in numbered
    ]
    path = folder / "v2_OpenEnded_mscoco_train2014_questions.json"
    path.write_text(json.dumps({"data_subtype": "train2014", "questions": questions}))
    (folder / "v2_mscoco_train2014_annotations.json").write_text(json.dumps({"annotations": annotations}))
    sharded("vqav2", path, folder, folder / "shards")
    words = folder / "words.txt"
    words.write_text("\n".join([*SAID, *SHARES]))
    train_tokenizer([words], folder / "vocab.txt", size=100)
    return folder


def vqa_config(corpus: Path, run_dir: Path, overrides: list[str]) -> RunConfig:
    stream = f"{{text: [], image_text: [{corpus}/shards/train/image_text], video_text: []}}"
    folders = [f"data.{split}={stream}" for split in ("train", "validation", "test")]
    family = ["downstream={family: image_qa, best: {figure: image_qa/exact, better: higher}}", "objectives.lm.answers=all"]
    rows = ["objectives.lm.instructions=6", "objectives.lm.averaging=sum", "training.validation_batches=1"]
    phase = "schedule=[{steps: 8, image_text: 1, resolution: 32}]"
    return config_of("demo_qa", corpus, run_dir, [*folders, *family, *rows, phase, *overrides])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vqa(tmp_path_factory.mktemp("vqa"))


def test_a_batch_has_all_answers_with_their_shares(corpus: Path, tmp_path: Path) -> None:
    config = vqa_config(corpus, tmp_path, [])
    tokenizer, manifest = Tokenizer(config.data.vocab, config.model.text.vocab_size), Manifest.load(corpus / "shards/train/image_text")
    reader, questions = SampleReader(config, tokenizer), 0
    draws = [SampleDraws(seed=0, task=Task.IMAGE_TEXT, epoch=0, index=index) for index in range(len(manifest))]
    batch = pair_batch(Task.IMAGE_TEXT, [reader.pair(manifest, None, one) for one in draws], [], stacked_on_arrival)
    assert batch.shares is not None
    for asked, target, share in zip(batch.instructions, batch.targets, batch.shares.tolist(), strict=True):
        answer = tokenizer.decode(target)
        assert share == pytest.approx(SHARES[answer] if answer else 1.0)
        questions += answer in ("red", "yes", "circle")
        assert bool(tokenizer.decode(asked)) == bool(answer)
    # Six rows hold a question of five answers and one of one, or one of three and one of one: two questions at most, or one.
    assert PICTURES <= questions < 3 * PICTURES
    assert float(local_counts(batch, config.objectives)[Objective.LM]) == pytest.approx(questions, rel=1e-6)


@pytest.mark.long
def test_it_trains_the_same_on_two_ranks_and_learns_the_most_frequent(corpus: Path, tmp_path: Path) -> None:
    faster = ["optimizer.lr=1e-3", "schedule.0.steps=60", "training.validate_every=60", "training.checkpoint_every=60"]
    one, two = (vqa_config(corpus, tmp_path / name, [*faster, layout]) for name, layout in (("1", "layout.data=1"), ("2", "layout.data=2")))
    run(one)
    run(two)
    expected, found = runs.figures_of(one), runs.figures_of(two)
    for step in range(20):
        assert found[step]["loss/lm"] == pytest.approx(expected[step]["loss/lm"], rel=1e-4)
    (last,) = lines(one, "validation")
    assert last["image_qa/exact"] == 100.0
    # What is left is how people differ: the mean entropy of the three questions' answers.
    entropy = -(torch.tensor(list(SHARES.values())) * torch.tensor(list(SHARES.values())).log()).sum() / len(SAID)
    assert float(expected[59]["loss/lm"]) == pytest.approx(float(entropy), abs=0.3)
