"""A trained run exported, loaded where there is no Megatron, and imported again."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_tools.tokenizer import train_tokenizer
from data_tools.tokenizer_kind import TokenizerKind
from megatron_mplug2.checkpoint import commit, store
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import InitialiseConfig
from megatron_mplug2.conversion.checkpoints import _results, checkpoint_to_folder, folder_to_checkpoint
from megatron_mplug2.conversion.contents import describe
from megatron_mplug2.conversion.huggingface.folder import MODELLING
from megatron_mplug2.conversion.huggingface.settings import model_config
from megatron_mplug2.conversion.huggingface.tokenizer_files import write_tokenizer
from megatron_mplug2.conversion.huggingface.weight_files import read_weights
from megatron_mplug2.conversion.official import folder_to_official, official_to_folder
from megatron_mplug2.conversion.released import MISSING
from megatron_mplug2.data.state import DataState
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.data.video_file import VideoFile
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation import evaluate, model
from megatron_mplug2.training import checkpoints, loop
from megatron_mplug2.training.best import Best
from megatron_mplug2.training.engine import make_engine
from megatron_mplug2.training.health_state import HealthState
from tests.conversion.exported import elsewhere
from tests.data.corpus import clip, make_config, picture, sentence, write_corpus
from tests.models.sizes import model_of
from tests.ranks import run_ranks

PICTURES, CLIPS = 6, 4
TOLERANCE = 1e-5
TEXTS = [
    "a red circle moves left",
    "What color  is the Square ?",
    "the [SEP] image, [CLS]!",
    "a large triangle describe up down left right up",
]
MODEL = model_of("tiny")

SAY = """
model, processor = model_of(inputs["folder"]), processor_of(inputs["folder"])
from PIL import Image
import io
pictures = [Image.open(io.BytesIO(bytes(picture.tolist()))) for picture in inputs["pictures"]]
clips, asked = inputs["clips"], inputs["questions"]
outputs = {"captions": processor.batch_decode(model.caption(**processor(videos=clips)))}
outputs["of clips"] = [processor.batch_decode(model.answer(**processor(videos=clips, text=question))) for question in asked]
outputs["of pictures"] = [processor.batch_decode(model.answer(**processor(images=pictures, text=question))) for question in asked]
pictures[0].save("picture.jpg")
outputs["card"] = of_card(inputs["folder"])
texts = processor(text=inputs["texts"])
outputs["clips"] = processor(videos=clips)["pixel_values"]
outputs["similarity"] = model.similarity(outputs["clips"], **texts)
outputs["match"] = model.match_probability(outputs["clips"], **texts)
outputs["mlm"] = model.masked_lm_logits(**texts)
outputs["ids"] = texts["input_ids"]
model.to(torch.bfloat16)
outputs["in bf16"] = processor.batch_decode(model.caption(**processor(videos=clips)))
model.float()
model.train()
targets = processor.targets(inputs["texts"])
outputs["targets"] = targets["decoder_input_ids"]
with torch.enable_grad():
    model(outputs["clips"], **texts, **targets).loss.backward()
outputs["without gradient"] = [name for name, weight in model.named_parameters() if weight.grad is None]
words = AutoTokenizer.from_pretrained(inputs["words"], trust_remote_code=True)
outputs["words"] = words(inputs["texts"])["input_ids"]
outputs["words decoded"] = [words.decode(ids[1:], skip_special_tokens=False) for ids in outputs["words"]]
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Of a run of a few steps with two tensor-parallel ranks, evaluated."""
    corpus = tmp_path_factory.mktemp("corpus")
    write_corpus(corpus, images=PICTURES, videos=CLIPS)
    phase = {"steps": 3, "text": 1, "image_text": 1, "video_text": 1, "frames": 3, "resolution": 24}
    temporal = {"lr_scale": 100.0}  # they begin at zero
    changes: dict[str, Any] = {"schedule": [phase], "model__init_std": 0.3, "optimizer__temporal": temporal, "layout__tensor": 2}
    config = make_config(corpus, tmp_path_factory.mktemp("run"), **changes)
    run_ranks(2, loop.pretrain, config)
    run_ranks(1, evaluate.evaluate, one_rank(config))
    return config


@pytest.fixture(scope="module")
def folder(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "folder"
    report = checkpoint_to_folder(config.run_dir, folder)
    assert not report.missing and "heads.contrast.log_temperature" in report.used
    return folder


def frames_of(data: bytes) -> torch.Tensor:
    """All of a clip, [N, H, W, 3] uint8."""
    with VideoFile(data) as video:
        shown = dict(video.pictures(list(range(video.facts.frames))))
    return torch.from_numpy(np.stack([shown[number] for number in sorted(shown)]))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer's files of a folder with a sentencepiece vocabulary."""
    place = tmp_path_factory.mktemp("words")
    (place / "texts.txt").write_text("".join(f"{sentence(number, 12)}\n" for number in range(200)))
    train_tokenizer([place / "texts.txt"], place / "words.model", size=80, kind=TokenizerKind.SENTENCEPIECE)
    (place / "folder").mkdir()
    write_tokenizer(place / "folder", place / "words.model", MODEL)
    shutil.copy(next(path for path in MODELLING if path.name.startswith("tokenization")), place / "folder")
    return place


@pytest.fixture(scope="module")
def found(folder: Path, words: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes of `SAY`, where there is no Megatron."""
    inputs = {
        "folder": str(folder),
        "pictures": [torch.from_numpy(np.frombuffer(picture(number), np.uint8).copy()) for number in range(PICTURES)],
        "clips": [frames_of(clip(number)) for number in range(CLIPS)],
        "questions": ["what red ?", "what green ?"],  # of every sample of the corpus
        "texts": TEXTS,
        "words": str(words / "folder"),
    }
    return dict(elsewhere(tmp_path_factory.mktemp("elsewhere"), SAY, inputs))


def test_says_what_it_says_in_training(config: RunConfig, found: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in (config.run_dir / evaluate.PREDICTIONS_NAME).read_text().splitlines()]
    captions = [line["said"] for line in lines if line["kind"] == "caption"]
    assert found["captions"] == captions and any(captions)
    assert len(found["card"]) == 2 and all(line.startswith("['") for line in found["card"])
    assert len(found["in bf16"]) == len(captions) and any(found["in bf16"])
    answers = [line["said"] for line in lines if line["kind"] == "answer"]
    of_samples = [said for kind in ("of pictures", "of clips") for both in zip(*found[kind], strict=True) for said in both]
    assert of_samples == answers and any(answers)


def expected_values(config: RunConfig, pixels: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    inference, _ = model.trained(config, config.run_dir)
    media, text = inference.encode_media(pixels, Task.VIDEO_TEXT), inference.encode_text(ids)
    match = inference.match_probability(inference.fuse(text, media, torch.arange(len(ids))))
    return {"similarity": inference.text_features(text) @ inference.vision_features(media).T, "match": match}


def test_compares_as_in_training(config: RunConfig, found: dict[str, Any]) -> None:
    expected = run_ranks(1, expected_values, one_rank(config), found["clips"], found["ids"])[0]
    for name, value in expected.items():
        assert float((found[name] - value).abs().max()) <= TOLERANCE, name


def test_texts_are_the_same_ids(config: RunConfig, words: Path, found: dict[str, Any]) -> None:
    """A special token's name in a text is plain text; a text ends without [SEP], what the decoder is taught with it."""
    length = config.data.text_length
    wordpiece = Tokenizer(config.data.vocab, config.model.text.vocab_size)
    assert found["ids"].tolist() == [wordpiece.encode(text, length).tolist() for text in TEXTS]
    most = found["targets"].shape[1]
    assert found["targets"].tolist() == [wordpiece.target(text, most).tolist() for text in TEXTS]
    sentencepiece = Tokenizer(words / "words.model", MODEL.text.vocab_size)
    assert found["words"] == [[sentencepiece.cls, *sentencepiece.pieces(text)] for text in TEXTS]
    assert found["words decoded"] == [sentencepiece.decode(sentencepiece.pieces(text)) for text in TEXTS]


def test_can_be_finetuned(config: RunConfig, found: dict[str, Any]) -> None:
    assert found["mlm"].shape == (*found["ids"].shape, config.model.text.vocab_size)
    pretraining = ("heads.mlm.", "heads.contrast.", "heads.matching.")
    assert [name for name in found["without gradient"] if not name.startswith(pretraining)] == []


def one_rank(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"layout": config.layout.model_copy(update={"tensor": 1})})


def stored_weights(place: Path, config: RunConfig) -> dict[str, torch.Tensor]:
    """Full weights of a model that a checkpoint was loaded into."""
    inference, weights = model.built(config)
    store.load_weights(store.find_in(place), weights, inference.context.topology)
    return {weight.name: weight.param.detach()[: weight.full_size[0]] if weight.full_size else weight.param.detach() for weight in weights}


def test_there_and_back_is_bit_exact(config: RunConfig, folder: Path, tmp_path: Path) -> None:
    folder_to_checkpoint(folder, tmp_path / "back")
    with pytest.raises(UserError, match="not by a run"):
        checkpoint_to_folder(tmp_path / "back", tmp_path / "again")
    with pytest.raises(UserError, match=r"back is of a run: `mplug2 checkpoint inspect .*back` tells what is in it"):
        describe(tmp_path / "back")
    expected, found = (run_ranks(1, stored_weights, place, one_rank(config))[0] for place in (config.run_dir, tmp_path / "back"))
    assert found.keys() == expected.keys() == {weight.name for weight in read_weights(folder)}
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


def test_to_the_released_layout_and_back(config: RunConfig, folder: Path, tmp_path: Path) -> None:
    """Heads of another width than the released ones', and temporal modules that skip pictures: no weight tells either."""
    folder_to_official(folder, tmp_path / "released.pth")
    official_to_folder(tmp_path / "released.pth", tmp_path / "back", config.data.vocab, model=None, bert_config=None)
    assert model_config(tmp_path / "back") == model_config(folder) and not config.model.vision.temporal_on_images
    expected, found = ({weight.name: weight.read() for weight in read_weights(place)} for place in (folder, tmp_path / "back"))
    assert set(expected) - set(found) == set(MISSING)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def save_averages(config: RunConfig) -> None:
    """After steps 1 and 2, of which the first is the best: weights as they begin, averages above them by as much as the step."""
    engine = make_engine(config)
    assert engine.ema is not None
    vocabulary = Tokenizer(config.data.vocab, config.model.text.vocab_size).fingerprint
    with checkpoints.Saver(engine, note=print) as saver:
        for step in (1, 2):
            for average in engine.ema.averages:
                average.add_(1)
            saver.save(DataState(steps=step, datasets={}, vocabulary=vocabulary), HealthState(best=Best(step=1, figure="loss", value=0.5)))


def test_the_averages_of_the_best_checkpoint_are_exported(config: RunConfig, tmp_path: Path) -> None:
    """What an evaluation takes; of a checkpoint that is named, its own."""
    training = config.training.model_copy(update={"ema": 0.9})
    averaged = one_rank(config).model_copy(update={"run_dir": tmp_path / "run", "training": training})
    run_ranks(1, save_averages, averaged)
    for place, above in (("run", 1), ("run/checkpoints/step-00000002", 2)):
        report = checkpoint_to_folder(tmp_path / place, tmp_path / f"out{above}")
        assert "average" not in report.ignored
        found = {weight.name: weight.read() for weight in read_weights(tmp_path / f"out{above}")}
        assert torch.all(found["decoder.layers.0.mlp.linear_fc1.bias"] == above)


def begun(config: RunConfig) -> dict[str, torch.Tensor]:
    engine = make_engine(config)
    checkpoints.start(engine)
    return {weight.name: weight.param.detach().clone() for weight in engine.weights}


def test_a_run_begins_with_what_was_imported(config: RunConfig, folder: Path, tmp_path: Path) -> None:
    folder_to_checkpoint(folder, tmp_path / "back")
    begins = InitialiseConfig(checkpoint=tmp_path / "back", modules=("vision", "decoder.layers.0"))
    other = one_rank(config).model_copy(update={"run_dir": tmp_path / "other", "initialise_from": begins})
    found = run_ranks(1, begun, other)[0]
    stored = {weight.name: weight.read() for weight in read_weights(folder)}
    same = {name for name, value in stored.items() if found[name].shape == value.shape and torch.equal(found[name], value)}
    assert {name for name in stored if name.startswith(("vision.", "decoder.layers.0."))} <= same
    assert "text.layers.0.mlp.linear_fc1.weight" not in same


def test_the_card_is_filled_from_the_run(config: RunConfig, folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert f"step {config.steps} of {config.steps}" in card and "- global batch: 8" in card
    assert "| retrieval.video.t2v.r1 |" in card and "trust_remote_code=True" in card


def test_the_card_of_a_finetuned_run_has_its_family_s_scores(tmp_path: Path) -> None:
    found = {"family": "video_qa", "scores": {"exact match": 50.0}, "chance": {"exact match": 10.0}, "step": 3}
    (tmp_path / "evaluation-video_qa.json").write_text(json.dumps(found))
    assert _results(tmp_path / "evaluation-video_qa.json", 3).endswith("|---|---|\n| exact match | 50.00 |\n")
    assert _results(tmp_path / "evaluation-video_qa.json", 4) == "", "of another checkpoint"


def test_a_damaged_checkpoint_is_one_line(config: RunConfig, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / commit.folder_name(1)
    checkpoint.mkdir(parents=True)
    source = config.run_dir / "checkpoints" / commit.folder_name(config.steps)
    for file in source.iterdir():
        (checkpoint / file.name).write_bytes(file.read_bytes()[: -1 if file.name == "__0_0.distcp" else None])
    for place in (tmp_path, checkpoint):
        with pytest.raises(UserError, match=r"__0_0\.distcp has .* bytes: name another checkpoint"):
            checkpoint_to_folder(place, tmp_path / "out")
    with pytest.raises(UserError, match="no checkpoint in"):
        checkpoint_to_folder(tmp_path / "checkpoints" / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_model_is_one_line(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"text_ffn": 128}))
    with pytest.raises(UserError, match=r"linear_fc1\.weight is .* in the file, .* in the model"):
        folder_to_checkpoint(tmp_path, tmp_path / "out")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="no model_type 'mplug2'"):
        folder_to_checkpoint(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
