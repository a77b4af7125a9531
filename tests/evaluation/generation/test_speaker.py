"""What a speaker makes of instructions and of what is generated, in text."""

import pytest

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.evaluation.generation import speaker
from megatron_mplug2.evaluation.generation.settings import Decoding, Mode
from tests.data import corpus
from tests.evaluation import tiny
from tests.ranks import run_ranks

ROWS, KEYS = [0, 2, 1, 1, 0, 2, 2], [7, 9, 8, 8, 7, 9, 9]
PLAIN, PUNCTUATED = "what shape is red", "What, shape, is red?!"
QUESTIONS = [PUNCTUATED, PLAIN, "what shape ?", "what moves up ?", PLAIN, PUNCTUATED, "is the circle blue or red ?"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """With a piece for each row of the tiny model's vocabulary."""
    folder = tmp_path_factory.mktemp("vocabulary")
    pieces = [*corpus.VOCAB, *(f"word{number}" for number in range(tiny.VOCAB - len(corpus.VOCAB)))]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    return corpus.make_config(folder, folder / "run")


def said(config: RunConfig, decoding: Decoding, cache_bytes: int) -> tuple[list[str], list[str]]:
    """Captions of three clips, and answers about them."""
    speaker.CACHE_BYTES = cache_bytes
    inference = tiny.make_inference(LayoutConfig())
    media = inference.encode_media(tiny.some_media(3), Task.VIDEO_TEXT)
    speaks = speaker.Speaker(inference, Tokenizer(config.data.vocab, tiny.VOCAB), config, decoding)
    return speaks.captions(media, Task.VIDEO_TEXT, [7, 8, 9]), speaks.answers(media, ROWS, QUESTIONS, KEYS)


def by(config: RunConfig, mode: Mode, cache_bytes: int = speaker.CACHE_BYTES) -> tuple[list[str], list[str]]:
    found: tuple[list[str], list[str]] = run_ranks(1, said, config, Decoding(mode=mode), cache_bytes)[0]
    return found


@pytest.mark.parametrize("mode", [Mode.STANDARD, Mode.SAMPLE])
def test_what_is_searched_together_does_not_matter(mode: Mode, config: RunConfig) -> None:
    captions, answers = by(config, mode)
    assert by(config, mode, cache_bytes=1) == (captions, answers), "one by one"
    assert len({*captions, *answers}) > 3


def test_the_released_mode_asks_as_the_released_code_does(config: RunConfig) -> None:
    """Nothing for a caption, and questions without punctuation."""
    lm = config.objectives.lm.model_copy(update={"video_instruction": "what moves ?"})
    other = config.model_copy(update={"objectives": config.objectives.model_copy(update={"lm": lm})})
    captions, answers = by(config, Mode.RELEASED)
    assert by(other, Mode.RELEASED)[0] == captions
    assert answers[0] == answers[4] and answers[1] == answers[5], "the same clip and question"
    captions, answers = by(config, Mode.STANDARD)
    assert by(other, Mode.STANDARD)[0] != captions
    assert answers[0] != answers[4] or answers[1] != answers[5]
