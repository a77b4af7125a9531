"""The post-LN layer: what its masks let through, and memories that rows share."""

from collections.abc import Callable

import torch

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.models.attention import AttentionMask, QueryGroup
from megatron_mplug2.models.bert import BertEmbedding, BertLayer
from tests.models.build import Built, build, randomise
from tests.models.test_universal import MODEL, TEXT
from tests.ranks import run_ranks

LENGTH, ROWS, MEMORY = 6, 3, 9
EVERYTHING = AttentionMask()


def _on_one_rank(check: Callable[[Built, BertLayer], None]) -> None:
    run_ranks(1, _checked, check)


def _checked(check: Callable[[Built, BertLayer], None]) -> None:
    built = build(MODEL, LayoutConfig())
    randomise(built)
    layer = built.stage.block("decoder.layers.0")
    assert isinstance(layer, BertLayer)
    with torch.no_grad():
        check(built, layer)


def _random(*size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(sum(size)))


def _same_positions(a: torch.Tensor, b: torch.Tensor) -> list[list[bool]]:
    """[rows][positions]: where two outputs [s, b, h] agree."""
    same: list[list[bool]] = torch.isclose(a, b, atol=1e-6).all(2).T.tolist()
    return same


def _hidden_keys(built: Built, layer: BertLayer) -> None:
    """Row 0 has 4 tokens: what its last two hold doesn't matter to the others."""
    keys = torch.tensor([[True] * 4 + [False] * 2, [True] * 6, [True] * 6])
    x = _random(LENGTH, ROWS, TEXT.hidden)
    other = x.clone()
    other[4:] += 1
    mask = AttentionMask(keys=keys)
    same = _same_positions(layer(x, mask), layer(other, mask))
    assert same == [[True] * 4 + [False] * 2, [False] * 6, [False] * 6]


def test_padding_is_not_attended_to() -> None:
    _on_one_rank(_hidden_keys)


def _causal(built: Built, layer: BertLayer) -> None:
    keys = torch.tensor([[True] * 6, [True] * 6, [True] * 3 + [False] * 3])
    x = _random(LENGTH, ROWS, TEXT.hidden)
    other = x.clone()
    other[3] += 1
    mask = AttentionMask(keys=keys, causal=True)
    same = _same_positions(layer(x, mask), layer(other, mask))
    assert same == [[True] * 3 + [False] * 3, [True] * 3 + [False] * 3, [True] * 3 + [False] + [True] * 2]


def test_a_position_sees_only_earlier_tokens() -> None:
    _on_one_rank(_causal)


def _memory_rows(built: Built, layer: BertLayer) -> None:
    x, memory = _random(LENGTH, ROWS, TEXT.hidden), _random(MEMORY, 2, TEXT.hidden)
    index = torch.tensor([1, 0, 1])
    shared = layer(x, EVERYTHING, memory, AttentionMask(memory_index=index, length=7))
    copied = layer(x, EVERYTHING, memory[:7, index], EVERYTHING)
    torch.testing.assert_close(shared, copied)
    keys = torch.arange(MEMORY).expand(ROWS, -1) < torch.tensor([[7], [2], [9]])
    by_keys = layer(x, EVERYTHING, memory, AttentionMask(memory_index=index, keys=keys))
    for row, length in enumerate((7, 2, 9)):
        alone = layer(x[:, row : row + 1], EVERYTHING, memory[:length, index[row], None], EVERYTHING)
        torch.testing.assert_close(by_keys[:, row : row + 1], alone)


def test_rows_share_memories_and_see_their_own_part() -> None:
    _on_one_rank(_memory_rows)


def _grouped_rows(built: Built, layer: BertLayer) -> None:
    """Of one memory are row 0 and, next to each other, rows 4 and 5; of the other 1, 6 and 7; rows 2 and 3 say whose they want."""
    x, memory = _random(LENGTH, 8, TEXT.hidden), _random(MEMORY, 2, TEXT.hidden)
    groups = (QueryGroup(2, None), QueryGroup(2, torch.tensor([1, 0])), QueryGroup(4, None))
    index = torch.tensor([0, 1, 1, 0, 0, 0, 1, 1])
    masks = AttentionMask(groups=groups, length=7), AttentionMask(memory_index=index, length=7)
    outs, gradients = [], []
    with torch.enable_grad():
        for mask in masks:
            given = x.clone().requires_grad_(), memory.clone().requires_grad_()
            outs.append(layer(given[0], EVERYTHING, given[1], mask))
            gradients.append(torch.autograd.grad((outs[-1] ** 3).sum(), given))
    assert torch.equal(*outs)
    torch.testing.assert_close(*gradients)


def test_rows_of_one_memory_attend_to_it_side_by_side() -> None:
    _on_one_rank(_grouped_rows)


def _no_memory(built: Built, layer: BertLayer) -> None:
    x = _random(LENGTH, ROWS, TEXT.hidden)
    expected = layer(x, EVERYTHING)
    layer.cross_attention.linear_proj.weight.fill_(9.0)
    assert torch.equal(layer(x, EVERYTHING), expected)


def test_without_a_memory_there_is_no_cross_attention() -> None:
    _on_one_rank(_no_memory)


def _embedding(built: Built, _: BertLayer) -> None:
    embedding = built.stage.block("text.embedding")
    assert isinstance(embedding, BertEmbedding)
    tokens = torch.tensor([[3, 49, 0], [7, 7, 7]])
    summed = embedding.word.weight[tokens] + embedding.position[:3] + embedding.token_type[0]
    torch.testing.assert_close(embedding(tokens), embedding.norm(summed).transpose(0, 1))


def test_embeddings_add_word_position_and_type() -> None:
    _on_one_rank(_embedding)


def _dropout(built: Built, layer: BertLayer) -> None:
    """On in training, after attention, FFN and embedding; repeated under the same key, off outside of a step."""
    x, keyed = _random(LENGTH, ROWS, TEXT.hidden), built.context.dropout
    expected = layer(x, EVERYTHING, x, EVERYTHING)
    draws = []
    for step in (0, 1, 0):
        keyed.start(step, 0, "decoder.layers.0")
        draws.append(layer(x, EVERYTHING, x, EVERYTHING))
        assert keyed._draws == 5  # two of attention probabilities, three of sub-layers
    keyed.stop()
    assert torch.equal(draws[0], draws[2])
    assert not torch.allclose(draws[0], draws[1])
    assert not torch.allclose(draws[0], expected)
    assert torch.equal(layer(x, EVERYTHING, x, EVERYTHING), expected)


def test_dropout_is_on_in_training_only() -> None:
    _on_one_rank(_dropout)
