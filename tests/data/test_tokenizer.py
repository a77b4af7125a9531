import io
from pathlib import Path

import pytest
import sentencepiece

from data_tools.tokenizer import train_tokenizer
from data_tools.tokenizer_kind import TokenizerKind
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.errors import UserError
from tests.data.corpus import VOCAB
from tests.shared import SHARED, needs_shared


def write(folder: Path, pieces: list[str]) -> Path:
    path = folder / "vocab.txt"
    path.write_text("".join(piece + "\n" for piece in pieces))
    return path


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return Tokenizer(write(tmp_path, [*VOCAB, "##s", "café", "cafe"]), 64)


def test_texts_have_cls_and_no_sep(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("A red Circle", 6)
    assert ids.tolist() == [2, *(VOCAB.index(word) for word in ("a", "red", "circle")), 0, 0]
    assert tokenizer.encode("a red circle", 3).tolist() == ids.tolist()[:3]


def test_targets_end_with_sep_however_short(tokenizer: Tokenizer) -> None:
    whole = tokenizer.target("a red circle", 7).tolist()
    assert whole == [2, *(VOCAB.index(word) for word in ("a", "red", "circle")), 3, 0, 0]
    assert tokenizer.target("a red circle", 4).tolist() == [*whole[:3], 3]
    assert tokenizer.target("", 4).tolist() == [2, 3, 0, 0]


def test_pieces_case_accents_and_unknown_words(tokenizer: Tokenizer) -> None:
    assert tokenizer.pieces("Circles CAFÉ zebra") == [VOCAB.index("circle"), len(VOCAB), len(VOCAB) + 2, 1]


def test_special_names_in_a_text_are_plain_text(tokenizer: Tokenizer) -> None:
    assert not {0, 2, 3, 4} & set(tokenizer.pieces("[SEP] red [MASK] [CLS] [PAD]"))


def test_decode_ends_at_sep_and_joins_pieces(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.target("what color is the circles?", 12)) == "what color is the circles?"
    assert tokenizer.decode([2, 5, 3, 6, 7]) == VOCAB[5]
    assert tokenizer.decode([2, 3]) == ""


def test_specials_are_no_ordinary_pieces(tokenizer: Tokenizer) -> None:
    assert tokenizer.ordinary.tolist() == list(range(5, len(VOCAB) + 3))


@needs_shared
def test_bert_base_uncased() -> None:
    """Ids that BERT's own tokenizer gives."""
    assert SHARED is not None
    tokenizer = Tokenizer(SHARED / "vocab" / "bert-base-uncased.txt", 30522)
    assert tokenizer.encode("What does the image describe?", 10).tolist() == [101, 2054, 2515, 1996, 3746, 6235, 1029, 0, 0, 0]
    assert tokenizer.pieces("unaffable embeddings, naïve") == [14477, 20961, 3468, 7861, 8270, 4667, 2015, 1010, 15743]
    assert tokenizer.target("hello world", 6).tolist() == [101, 7592, 2088, 102, 0, 0]
    assert tokenizer.decode([101, 7861, 8270, 4667, 2015, 1010, 15743, 102, 7592]) == "embeddings, naive"
    assert tokenizer.specials.tolist() == [0, 100, 101, 102, 103]


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([], "is empty"),
        (["a", "b"], "no BERT vocabulary"),
        ([*VOCAB[1:5], "[PAD]", "a"], r"must be \[PAD\]"),
        ([*VOCAB, "red"], "'red' a second time"),
        ([*VOCAB, "", "x"], f"line {len(VOCAB) + 1}: an empty line"),
        (VOCAB[:5], "nothing but special tokens"),
        ([*VOCAB, *(f"w{place}" for place in range(40))], "model.text.vocab_size=64"),
    ],
)
def test_unusable_vocabularies(tmp_path: Path, pieces: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Tokenizer(write(tmp_path, pieces), 64)
    assert "vocab.txt" in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer(tmp_path / "missing.txt", 64)
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer(tmp_path, 64)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="neither UTF-8 text"):
        Tokenizer(tmp_path / "binary", 64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentencepiece model of the corpus's words, each a piece."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "texts").write_text("".join(f"{first} {second}\n" for first in VOCAB[5:] for second in VOCAB[5:]))
    train_tokenizer([folder / "texts"], folder / "words.model", size=64, kind=TokenizerKind.SENTENCEPIECE)
    return folder / "words.model"


def test_a_sentencepiece_model_frames_and_decodes_as_a_wordpiece_vocabulary(model: Path, tmp_path: Path) -> None:
    words, pieces = Tokenizer(write(tmp_path, VOCAB), 64), Tokenizer(model, 64)
    assert (pieces.cls, pieces.sep, pieces.mask) == (words.cls, words.sep, words.mask)
    assert pieces.specials.tolist() == words.specials.tolist()
    text = "What color is the small Circle?"
    assert pieces.decode(pieces.target(text, 30)) == words.decode(words.target(text, 30)) == "what color is the small circle?"
    assert pieces.encode(text, 30)[0] == pieces.cls and pieces.sep not in pieces.encode(text, 30)
    assert pieces.target(text, 4).tolist() == [pieces.cls, *pieces.pieces(text)[:2], pieces.sep]
    assert pieces.decode([2, 3, 7]) == "" and pieces.decode([63, 900, 0]) == pieces.decode([63])
    assert "[UNK]" in pieces.decode(pieces.pieces("red 語"))
    assert pieces.fingerprint != words.fingerprint


def test_no_text_spells_a_special_token(model: Path, tmp_path: Path) -> None:
    for vocab in (model, write(tmp_path, VOCAB)):
        tokenizer = Tokenizer(vocab, 64)
        assert not {0, 2, 3, 4} & set(tokenizer.pieces("[SEP] red [MASK] [CLS] [PAD] <s> </s> \ud800"))


def test_unusable_models(model: Path, tmp_path: Path) -> None:
    broken, other = tmp_path / "broken.model", io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(VOCAB), model_writer=other, vocab_size=99, hard_vocab_limit=False, minloglevel=2
    )
    for content, message in (
        (model.read_bytes()[:-1], "nor a whole sentencepiece model"),
        (model.read_bytes()[:4000], "nor a whole sentencepiece model"),
        (other.getvalue(), r"a sentencepiece model without \[PAD\], \[UNK\], \[CLS\], \[SEP\], \[MASK\]"),
    ):
        broken.write_bytes(content)
        with pytest.raises(UserError, match=message) as error:
            Tokenizer(broken, 64)
        assert "broken.model" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"model.text.vocab_size=20 is less: set it to \d+ or more"):
        Tokenizer(model, 20)
