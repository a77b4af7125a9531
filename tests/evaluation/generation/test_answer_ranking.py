"""The likeliest answer of a list, against scoring every answer by itself without a cache."""

from pathlib import Path

import pytest
import torch

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.answer_list import AnswerList
from megatron_mplug2.evaluation.generation.answer_ranking import AnswerRanker
from megatron_mplug2.evaluation.generation.speaker import instructed_memory
from megatron_mplug2.evaluation.inference import Inference, Memory
from tests.data import corpus
from tests.evaluation import tiny
from tests.ranks import run_ranks

QUESTIONS, LENGTH = 7, 8


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join([*corpus.VOCAB, *(f"word{number}" for number in range(tiny.VOCAB - len(corpus.VOCAB)))]))
    return path


def answer_list() -> AnswerList:
    """37 answers of one to six words; many begin alike, and some are the beginning of others."""
    numbers = torch.Generator().manual_seed(4)
    texts = dict.fromkeys(
        " ".join(corpus.WORDS[word] for word in torch.randint(0, 5, (1 + place % 6,), generator=numbers).tolist()) for place in range(60)
    )
    return AnswerList(path=Path("answers.txt"), answers=tuple(texts)[:37])


def memory_of(inference: Inference) -> Memory:
    media = inference.encode_media(tiny.some_media(3), Task.VIDEO_TEXT)
    return instructed_memory(inference, media, torch.arange(QUESTIONS) % 3, tiny.some_texts(QUESTIONS))


def ranked(vocab: Path, layout: LayoutConfig, at_once: int) -> tuple[torch.Tensor, list[str]]:
    inference = tiny.make_inference(layout)
    ranker, memory = AnswerRanker(inference, Tokenizer(vocab, tiny.VOCAB), answer_list(), LENGTH), memory_of(inference)
    return ranker.scores(memory, at_once)[0], ranker.best(memory, at_once)


def one_by_one(vocab: Path) -> tuple[torch.Tensor, list[str]]:
    inference, tokenizer = tiny.make_inference(LayoutConfig()), Tokenizer(vocab, tiny.VOCAB)
    memory, answers, columns = memory_of(inference), answer_list().answers, []
    for answer in answers:
        ids = [tokenizer.cls, *tokenizer.pieces(answer), tokenizer.sep]
        rows, total = torch.tensor(ids).expand(QUESTIONS, -1), torch.zeros(QUESTIONS)
        for place in range(1, len(ids)):
            total += inference.next_logits(rows[:, :place], memory).log_softmax(-1)[:, ids[place]]
        columns.append(total)
    scores, best = torch.stack(columns, dim=1).max(dim=1)
    return scores, [answers[place] for place in best.tolist()]


def test_it_is_the_likeliest_of_all_however_few_are_scored_at_once(vocab: Path) -> None:
    scores, best = run_ranks(1, one_by_one, vocab)[0]
    assert len(set(best)) > 1, "the questions have different answers"
    for layout, at_once in ((LayoutConfig(), 1), (LayoutConfig(), 4), (LayoutConfig(), 128), (LayoutConfig(tensor=2), 4)):
        for found, said in run_ranks(layout.world_size, ranked, vocab, layout, at_once):
            torch.testing.assert_close(found, scores, rtol=1e-4, atol=1e-4)
            assert said == best


def all_of_them(vocab: Path, at_once: int) -> torch.Tensor:
    inference = tiny.make_inference(LayoutConfig())
    return AnswerRanker(inference, Tokenizer(vocab, tiny.VOCAB), answer_list(), LENGTH).all_scores(memory_of(inference), at_once)


def test_every_answer_is_scored_in_the_order_of_the_list(vocab: Path) -> None:
    scores, best = run_ranks(1, one_by_one, vocab)[0]
    for at_once in (5, 128):
        (found,) = run_ranks(1, all_of_them, vocab, at_once)
        assert found.shape == (QUESTIONS, len(answer_list().answers))
        likeliest = found.max(dim=1)
        torch.testing.assert_close(likeliest.values, scores, rtol=1e-4, atol=1e-4)
        assert [answer_list().answers[place] for place in likeliest.indices.tolist()] == best


def test_an_answer_that_the_decoder_cannot_say(vocab: Path) -> None:
    def refused() -> list[str]:
        inference, tokenizer, said = tiny.make_inference(LayoutConfig()), Tokenizer(vocab, tiny.VOCAB), []
        for answers in (("red", "a a a a a a a"), ("\u200b", "red")):
            with pytest.raises(UserError) as error:
                AnswerRanker(inference, tokenizer, AnswerList(path=Path("answers.txt"), answers=answers), LENGTH)
            said.append(str(error.value))
        return said

    long, empty = run_ranks(1, refused)[0]
    assert long.startswith("answers.txt, line 2: 'a a a a a a a' is 7 tokens, but the decoder says 1 to 6: ")
    assert empty.startswith("answers.txt, line 1: ") and " is 0 tokens" in empty
