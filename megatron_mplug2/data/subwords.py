"""The two kinds of vocabulary behind `Tokenizer`: BERT's uncased WordPiece, and a sentencepiece model."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from megatron_mplug2.errors import UserError

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""In every vocabulary; `mplug2 data tokenizer` gives them the ids 0 to 4."""
UNKNOWN = "[UNK]"
WHERE_FROM = "take bert-base-uncased's vocab.txt, or train one with `mplug2 data tokenizer`"


class Subwords(Protocol):
    """A vocabulary that cuts a text into pieces. A special token's name in a text is cut like any other word."""

    @property
    def pieces(self) -> Sequence[str]:
        """In the order of their ids."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides over the ids."""

    def ids(self, text: str) -> list[int]: ...

    def text(self, ids: Sequence[int]) -> str:
        """In lower case; of special tokens only `[UNK]` may be among the ids."""


def open_subwords(path: Path) -> Subwords:
    """A WordPiece vocabulary (UTF-8 text) or a sentencepiece model (protobuf), whichever the file is.

    Raises UserError for a file that is missing, damaged or another's.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"data.vocab={path} cannot be read ({error.strerror}): {WHERE_FROM}") from None
    try:
        return WordPiece(path, data.decode())
    except UnicodeDecodeError:  # a model has numbers in it that are no UTF-8
        return SentencePiece(path, data)


class WordPiece:
    """BERT's uncased tokenizer over a list of pieces, one a line."""

    def __init__(self, path: Path, lines: str) -> None:
        """Raises UserError for what is no such list; `path` is for its text."""
        self.pieces: Sequence[str] = _pieces(path, lines)
        self._tokenizer = wordpiece_tokenizer(self.pieces)
        self.fingerprint = hashlib.sha256("\n".join(self.pieces).encode()).hexdigest()

    def ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)


def wordpiece_tokenizer(pieces: Sequence[str]) -> tokenizers.Tokenizer:
    """Cuts a text alone, without special tokens before or after it."""
    ids = {piece: id_ for id_, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab=ids, unk_token=UNKNOWN, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    return tokenizer


class SentencePiece:
    """A sentencepiece model with our special tokens as control symbols, which no text can spell."""

    def __init__(self, path: Path, model: bytes) -> None:
        """Raises UserError for a model that is damaged or has no such tokens; `path` is for its text."""
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(model)
        except RuntimeError:
            raise UserError(
                f"data.vocab={path} is neither UTF-8 text with a piece a line nor a whole sentencepiece model: {WHERE_FROM}"
            ) from None
        numbers = range(self._model.get_piece_size())
        self.pieces: Sequence[str] = [self._model.id_to_piece(number) for number in numbers]
        reserved = {piece for piece, number in zip(self.pieces, numbers, strict=True) if self._reserved(number)}
        if missing := [special for special in SPECIALS if special not in reserved]:
            raise UserError(f"data.vocab={path} is a sentencepiece model without {', '.join(missing)} as control symbols: {WHERE_FROM}")
        self.fingerprint = hashlib.sha256(model).hexdigest()

    def ids(self, text: str) -> list[int]:
        return self._model.encode(text)

    def text(self, ids: Sequence[int]) -> str:
        return self._model.decode(list(ids))

    def _reserved(self, number: int) -> bool:
        return self._model.is_control(number) or self._model.is_unknown(number)


def _pieces(path: Path, lines: str) -> list[str]:
    pieces = [piece.rstrip("\r") for piece in lines.split("\n")]
    if pieces[-1] == "":
        pieces.pop()
    if not pieces:
        raise UserError(f"data.vocab={path} is empty: {WHERE_FROM}")
    if missing := [special for special in SPECIALS if special not in pieces]:
        raise UserError(f"data.vocab={path} has no {', '.join(missing)}, so it is no BERT vocabulary: {WHERE_FROM}")
    seen: set[str] = set()
    for line, piece in enumerate(pieces, start=1):
        if not piece or piece in seen:
            raise UserError(f"data.vocab={path}, line {line}: {'an empty line' if not piece else f'{piece!r} a second time'}: {WHERE_FROM}")
        seen.add(piece)
    return pieces
