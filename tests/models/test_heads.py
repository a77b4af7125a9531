"""Heads: chosen positions, tied vocabularies, features of length 1."""

import torch
from torch.nn import functional as F

from megatron_mplug2.config.checks import padded_vocab
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.models.heads import ContrastiveHead, LanguageModelHead
from megatron_mplug2.models.mplug2 import Stage, chain
from megatron_mplug2.models.weights import named_weights
from tests.models.build import LAYOUTS, Built, build, randomise
from tests.models.test_universal import MODEL, TEXT
from tests.ranks import run_ranks

LENGTH, ROWS = 5, 2
X = torch.randn(LENGTH, ROWS, TEXT.hidden, generator=torch.Generator().manual_seed(0))
CHOSEN = torch.tensor([8, 0, 3])


def _built(layout: LayoutConfig) -> Built:
    built = build(MODEL, layout)
    randomise(built)
    return built


def _logits(layout: LayoutConfig) -> tuple[torch.Tensor, torch.Tensor]:
    built = _built(layout)
    head, x = built.stage.block("heads.mlm"), built.context.sequence.scatter(X)
    return head(x, LENGTH).detach(), head(x, LENGTH, CHOSEN).detach()


def _expected_logits() -> torch.Tensor:
    built = _built(LAYOUTS["TP1"])
    head = built.stage.block("heads.mlm")
    assert isinstance(head, LanguageModelHead)
    hidden = F.layer_norm(F.gelu(head.dense(X)), (TEXT.hidden,), head.norm.weight, head.norm.bias, 1e-12)
    return (hidden @ built.stage.block("text.embedding").get_parameter("word.weight").T + head.bias).detach()


def test_logits_are_of_the_embedding_s_words_and_of_chosen_positions() -> None:
    (expected,) = run_ranks(1, _expected_logits)
    assert not expected[..., TEXT.vocab_size :].any()
    for layout in LAYOUTS.values():
        ranks = run_ranks(layout.world_size, _logits, layout)
        everywhere, chosen = (torch.cat(parts, dim=-1) for parts in zip(*ranks, strict=True))
        torch.testing.assert_close(everywhere, expected)
        torch.testing.assert_close(chosen[:, 0], expected.flatten(0, 1)[CHOSEN])


def _ties(layout: LayoutConfig) -> None:
    """In one stage the head holds the embedding's weight; on a stage of its own a copy, that goes by the embedding's name."""
    built = _built(layout)
    word = built.stage.block("decoder.embedding").get_parameter("word.weight")
    assert built.stage.block("heads.lm").get_parameter("word") is word
    assert sum(weight.param is word for weight in built.weights) == 1
    units = [unit for unit in chain(MODEL) if unit.name == "heads.lm"]
    alone = named_weights(Stage(units, built.context), built.topology)
    (copy,) = (weight for weight in alone if weight.name == "decoder.embedding.word.weight")
    assert not copy.saves
    assert copy.param.shape == word.shape == (padded_vocab(TEXT.vocab_size) // layout.tensor, TEXT.hidden)


def test_the_vocabulary_is_one_weight() -> None:
    for name in ("TP1", "TP2"):
        run_ranks(LAYOUTS[name].world_size, _ties, LAYOUTS[name])


def _features() -> None:
    built = _built(LAYOUTS["TP1"])
    head = built.stage.block("heads.contrast")
    assert isinstance(head, ContrastiveHead)
    head.bfloat16()
    for features, projection in zip(head(X[0].bfloat16(), X[1].bfloat16()), (head.vision, head.text), strict=True):
        assert features.dtype == torch.float32
        torch.testing.assert_close(features.norm(dim=1), torch.ones(ROWS))
        assert features.shape == (ROWS, MODEL.contrastive_width)
        assert projection.weight.dtype == torch.bfloat16
    assert not torch.allclose(head(X[0].bfloat16(), X[0].bfloat16())[0], head(X[0].bfloat16(), X[0].bfloat16())[1])


def test_features_have_length_one_in_fp32() -> None:
    run_ranks(1, _features)
