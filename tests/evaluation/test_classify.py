"""Probabilities of classes: every class by itself without a cache, and prompts compared one by one."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from megatron_mplug2.config.downstream import Family
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.labelling import Labelling, framed_texts, labelling_of
from megatron_mplug2.data.record import Record
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.evaluation import model
from megatron_mplug2.evaluation.classify import make_classifier
from megatron_mplug2.evaluation.inference import Inference, Memory
from tests.data.labelled import CLASSES, labelled_config, sample
from tests.ranks import run_ranks

PROMPTS = ("a {}", "the image is {} ?")


def labelling(config: RunConfig) -> Labelling:
    found = labelling_of(config)
    assert found is not None
    return found


def pixels(count: int, frames: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, frames, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def records(count: int) -> list[Record]:
    return [Record(captions=("the circle is red",) if number % 2 else ("blue",), label="up", attributes={}) for number in range(count)]


def classified(config: RunConfig, frames: int) -> torch.Tensor:
    inference, _ = model.built(config)
    return make_classifier(inference, config, labelling(config)).of_media(pixels(4, frames), records(4))


def one_by_one(config: RunConfig, frames: int) -> torch.Tensor:
    """Log-likelihoods of each class's words, [SEP] too, from the whole sequence each time."""
    inference, _ = model.built(config)
    tokenizer, rows, columns = Tokenizer(config.data.vocab, config.model.text.vocab_size), torch.arange(4), []
    media = inference.encode_media(pixels(4, frames), labelling(config).family.task)
    asked = [labelling(config).asked(record) for record in records(4)]
    tokens = torch.stack([torch.from_numpy(tokenizer.encode(text, config.data.text_length)) for text in asked])
    memory = inference.memory(inference.fuse(inference.encode_text(tokens), media, rows), media, rows)
    for name in labelling(config).classes.names:
        ids = [tokenizer.cls, *tokenizer.pieces(name), tokenizer.sep]
        columns.append(log_likelihood(inference, memory, ids))
    return torch.stack(columns, dim=1).softmax(dim=1)


def log_likelihood(inference: Inference, memory: Memory, ids: list[int]) -> torch.Tensor:
    rows, total = torch.tensor(ids).expand(memory.answers, -1), torch.zeros(memory.answers)
    for place in range(1, len(ids)):
        total += inference.next_logits(rows[:, :place], memory).log_softmax(-1)[:, ids[place]]
    return total


@pytest.mark.parametrize(("family", "frames"), [(Family.IMAGE_ENTAILMENT, 1), (Family.PAIR_ENTAILMENT, 2)])
def test_the_words_of_every_class_count_on_any_layout(tmp_path: Path, family: Family, frames: int) -> None:
    config = labelled_config(tmp_path, family, [sample(family, 0, "up")])
    (plain,) = run_ranks(1, one_by_one, config, frames)
    (found,) = run_ranks(1, classified, config, frames)
    assert found.shape == (4, len(CLASSES)) and torch.allclose(found.sum(dim=1), torch.ones(4))
    assert torch.allclose(found, plain, atol=1e-5) and plain.std(dim=0).max() > 1e-3
    layout = LayoutConfig(tensor=2, sequence_parallel=True)
    for rank in run_ranks(2, classified, config.model_copy(update={"layout": layout}), frames):
        assert torch.allclose(rank, plain, atol=1e-5)


def read_texts(config: RunConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """By the classifier, and each text by itself without padding, each class by itself without a cache."""
    inference, _ = model.built(config)
    tokenizer = Tokenizer(config.data.vocab, config.model.text.vocab_size)
    texts = [Record(text=text, second_text=second, attributes={}) for text, second in (("a red circle", ""), ("blue", "is it red ?"))]
    rows = []
    for record in texts:
        tokens = torch.from_numpy(framed_texts(tokenizer, record, config.data.document_length))
        text = inference.encode_text(tokens[tokens != 0][None])
        memory = Memory(tokens=text.tokens, keys=text.keys)
        classes = [[tokenizer.cls, *tokenizer.pieces(name), tokenizer.sep] for name in CLASSES]
        rows.append(torch.cat([log_likelihood(inference, memory, ids) for ids in classes]).softmax(dim=0))
    return make_classifier(inference, config, labelling(config)).of_texts(texts), torch.stack(rows)


def test_texts_are_read_by_the_decoder_alone(tmp_path: Path) -> None:
    family = Family.TEXT_CLASSIFICATION
    config = labelled_config(tmp_path, family, [sample(family, 0, "up")])
    ((found, plain),) = run_ranks(1, read_texts, config)
    assert torch.allclose(found, plain, atol=1e-5) and plain.std(dim=0).max() > 1e-3
    layout = LayoutConfig(tensor=2, sequence_parallel=True)
    for rank, _ in run_ranks(2, read_texts, config.model_copy(update={"layout": layout})):
        assert torch.allclose(rank, plain, atol=1e-5)


def prompted(config: RunConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """By the classifier, and with a loop."""
    inference, _ = model.built(config)
    tokenizer = Tokenizer(config.data.vocab, config.model.text.vocab_size)
    vision = inference.vision_features(inference.encode_media(pixels(4, 3), labelling(config).family.task))
    columns = []
    for name in CLASSES:
        features = []
        for prompt in PROMPTS:
            tokens = torch.from_numpy(tokenizer.encode(prompt.format(name), config.data.text_length))[None]
            features.append(inference.text_features(inference.encode_text(tokens))[0])
        columns.append(vision @ F.normalize(torch.stack(features).mean(dim=0), dim=0) / 0.07)
    found = make_classifier(inference, config, labelling(config)).of_media(pixels(4, 3), records(4))
    return found, torch.stack(columns, dim=1).softmax(dim=1)


def test_prompts_are_compared_by_vlc(tmp_path: Path) -> None:
    family = Family.VIDEO_CLASSIFICATION
    config = labelled_config(tmp_path, family, [sample(family, 0, "up")], downstream__classes__prompts=PROMPTS)
    ((found, plain),) = run_ranks(1, prompted, config)
    assert torch.allclose(found, plain, atol=1e-5) and plain.std(dim=1).max() > 1e-3
