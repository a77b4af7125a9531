"""The released search: against the released model's own output, and against its rule told over tuples."""

import pytest
import torch

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.evaluation.generation.generate import generate
from megatron_mplug2.evaluation.generation.hypotheses import length_penalty
from megatron_mplug2.evaluation.generation.released_search import released_caption, released_question, released_search
from megatron_mplug2.evaluation.generation.settings import Bounds, Decoding, Mode
from megatron_mplug2.evaluation.generation.speaker import ANSWER_TOKENS, CAPTION_TOKENS, instructed_memory
from megatron_mplug2.evaluation.inference import Inference
from tests.evaluation.generation.language import CPU, END, START, VOCAB, Language, bounds
from tests.models.build import LAYOUTS
from tests.models.golden import Released, build_released, load
from tests.ranks import run_ranks
from tests.shared import needs_shared

CLS, SEP = 101, 102


def decoded(kind: Released, layout: LayoutConfig) -> tuple[list[list[int]], list[float]]:
    built, golden = build_released(kind, layout), load(kind)
    inference = Inference(built.stage, built.context)
    media, rows = inference.encode_media(golden["video"], Task.VIDEO_TEXT), torch.arange(2)
    if kind is Released.CAPTION:
        memory, tokens = inference.visual_memory(media, rows), CAPTION_TOKENS
    else:
        memory, tokens = instructed_memory(inference, media, rows, golden["question_ids"]), ANSWER_TOKENS
    within = Bounds(min_length=tokens[0], max_length=tokens[1], start=CLS, end=SEP, pad=0)
    found = generate(inference, memory, [0, 0], Decoding(mode=Mode.RELEASED), within)
    return found.ids.tolist(), found.scores.tolist()


@needs_shared
@pytest.mark.parametrize(
    ("kind", "name"), [(Released.CAPTION, "TP1"), (Released.CAPTION, "TP2+SP"), (Released.VQA, "TP1"), (Released.VQA, "TP2")]
)
def test_equals_the_released_decoding(kind: Released, name: str) -> None:
    expected = load(kind)["out"]
    for ids, scores in run_ranks(LAYOUTS[name].world_size, decoded, kind, LAYOUTS[name]):
        assert ids == expected["beam_ids"]
        assert scores == pytest.approx(expected["beam_scores"], rel=1e-5)


def plain_released_search(language: Language, sample: int, width: int, within: Bounds) -> tuple[tuple[int, ...], float]:
    beams: dict[tuple[int, ...], float] = {(START,): 0.0}
    hypotheses: list[tuple[float, tuple[int, ...]]] = []
    for length in range(1, within.max_length + 1):
        penalty = length_penalty(length)
        longer: dict[tuple[int, ...], float] = {}
        for ids, score in beams.items():
            log_p = language.logits(sample, ids).log_softmax(-1).tolist()
            longer |= {
                (*ids, token): score + (-1e20 if token == END and length <= within.min_length else log_p[token]) for token in range(VOCAB)
            }
        kept = sorted(longer, key=lambda ids: -longer[ids])[:width]
        ends = kept[0][-1] == END or length == within.max_length
        hypotheses += [(longer[ids] / penalty, ids) for ids in kept if ends or ids[-1] == END]
        if ends:
            break
        beams = {ids: longer[ids] for ids in kept}
    score, ids = max(hypotheses, key=lambda one: one[0])
    return ids, score


def test_follows_the_rule_with_its_quirks() -> None:
    within, width, samples = bounds(min_length=1, max_length=7), 4, 24
    language = Language(samples, width, scale=5.0)  # sure enough that a longer sequence may score higher
    found = released_search(language, samples, width, within, CPU)
    expected = [plain_released_search(language, sample, width, within) for sample in range(samples)]
    for ids, score, (plain, plain_score) in zip(found.ids.tolist(), found.scores.tolist(), expected, strict=True):
        assert tuple(ids[: len(plain)]) == plain and not any(ids[len(plain) :])
        assert score == pytest.approx(plain_score, rel=1e-5)
    assert any(END in ids[:-1] for ids, _ in expected), "some go on behind [SEP]"


def test_texts_before_and_after() -> None:
    assert released_question("What's the man (left) doing -- eating/drinking?") == "whats the man left doing eating drinking"
    assert len(released_question("one two " * 40).split()) == 50
    assert released_caption("a video ofa man sings") == "a man sings"
    assert released_caption("a man sings") == "a man sings"
