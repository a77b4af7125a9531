"""Generation with the decoder's cache, against the same searches over whole sequences."""

from dataclasses import dataclass
from functools import cache

import pytest
import torch

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.evaluation.generation.beam_search import beam_search
from megatron_mplug2.evaluation.generation.generate import generate
from megatron_mplug2.evaluation.generation.hypotheses import Hypotheses, NextLogits
from megatron_mplug2.evaluation.generation.released_search import released_search
from megatron_mplug2.evaluation.generation.sampling import draw
from megatron_mplug2.evaluation.generation.settings import Bounds, Decoding, Mode
from megatron_mplug2.evaluation.generation.speaker import CACHE_BYTES, answers_at_once, instructed_memory
from megatron_mplug2.evaluation.inference import Inference, Memory
from tests.evaluation.tiny import CLS, CONFIG, PAD, SEP, layouts, make_inference, some_media, some_texts, task_of
from tests.ranks import run_ranks

SAMPLES, FRAMES = 6, 3
KEYS = range(100, 100 + SAMPLES)
BOUNDS = Bounds(min_length=2, max_length=12, start=CLS, end=SEP, pad=PAD)
DECODINGS = (
    *(Decoding(mode=mode, beams=beams) for mode in (Mode.STANDARD, Mode.RELEASED) for beams in (1, 3, 5)),
    Decoding(mode=Mode.GREEDY),
    Decoding(mode=Mode.SAMPLE, temperature=0.8, top_p=0.9),
)


@dataclass(frozen=True, kw_only=True)
class Found:
    cached: list[Hypotheses]
    whole: list[Hypotheses]
    moved: bool
    """Whether a beam went on from another one's place."""


def memory_of(inference: Inference) -> Memory:
    """Of clips with instructions of different lengths."""
    rows = torch.tensor([0, 2, 1, 1, 0, 2])
    media = inference.encode_media(some_media(3, FRAMES), task_of(FRAMES))
    return instructed_memory(inference, media, rows, some_texts(SAMPLES))


def over_whole_sequences(inference: Inference, memory: Memory, decoding: Decoding) -> tuple[Hypotheses, bool]:
    moved = False

    def next_logits(ids: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        nonlocal moved
        moved |= not torch.equal(parents, torch.arange(len(ids)))
        return inference.next_logits(ids, memory)

    return search(next_logits, decoding), moved


def search(next_logits: NextLogits, decoding: Decoding) -> Hypotheses:
    device = torch.device("cpu")
    if decoding.mode is Mode.SAMPLE:
        return draw(next_logits, KEYS, decoding, BOUNDS, device)
    find = released_search if decoding.mode is Mode.RELEASED else beam_search
    return find(next_logits, SAMPLES, decoding.width, BOUNDS, device)


def found_by(layout: LayoutConfig) -> Found:
    inference = make_inference(layout)
    memory = memory_of(inference)
    assert len(set(memory.keys.sum(1).tolist())) > 2, "memories of different lengths"
    whole = [over_whole_sequences(inference, memory, decoding) for decoding in DECODINGS]
    return Found(
        cached=[generate(inference, memory, KEYS, decoding, BOUNDS) for decoding in DECODINGS],
        whole=[hypotheses for hypotheses, _ in whole],
        moved=any(moved for _, moved in whole),
    )


@cache
def one_process() -> Found:
    found: Found = run_ranks(1, found_by, LayoutConfig())[0]
    return found


def equal(found: Hypotheses, expected: Hypotheses) -> None:
    assert found.ids.tolist() == expected.ids.tolist()
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)


def test_the_cache_changes_nothing() -> None:
    found = one_process()
    for cached, whole in zip(found.cached, found.whole, strict=True):
        equal(cached, whole)
    assert found.moved
    assert len({tuple(map(tuple, hypotheses.ids.tolist())) for hypotheses in found.whole}) >= 4, "the modes differ"


@pytest.mark.parametrize("layout", layouts(), ids=["tp2", "tp2+sp"])
def test_tensor_parallel_ranks_generate_what_one_process_does(layout: LayoutConfig) -> None:
    for found in run_ranks(2, found_by, layout):
        for cached, whole, expected in zip(found.cached, found.whole, one_process().cached, strict=True):
            equal(cached, whole)
            equal(cached, expected)


def cache_sizes(layout: LayoutConfig) -> tuple[int, int, int]:
    """Bytes that are kept for an answer, bytes that are foretold, and the answers that go together if a memory has a million tokens."""
    inference = make_inference(layout)
    memory = memory_of(inference)
    kept = [tensor for layer in inference.start_decoding(memory).layers for tensor in (layer.memory.keys, layer.memory.values)]
    return (
        sum(tensor.untyped_storage().nbytes() for tensor in kept) // SAMPLES,
        inference.cache_bytes(memory.keys.shape[1]),
        answers_at_once(inference, 1_000_000),
    )


def test_the_cache_takes_no_more_than_is_foretold() -> None:
    kept, foretold, at_once = run_ranks(1, cache_sizes, LayoutConfig())[0]
    assert kept == foretold
    assert at_once == CACHE_BYTES // (2 * CONFIG.decoder_layers * 1_000_000 * CONFIG.text.hidden * 4)
    for kept, foretold, _ in run_ranks(2, cache_sizes, layouts()[0]):
        assert kept == foretold
