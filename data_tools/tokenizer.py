"""Trains a tokenizer's vocabulary on the texts of a corpus: BERT's WordPiece, or a sentencepiece model."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from data_tools.fresh_file import check_free, write_fresh
from data_tools.texts import PASSAGE, corpus_texts, sampled
from data_tools.tokenizer_kind import TokenizerKind
from megatron_mplug2.data.subwords import SPECIALS, UNKNOWN
from megatron_mplug2.errors import UserError

_COVERAGE = 0.9995
"""Share of the texts' characters that a sentencepiece model knows (its own default): the rarest of a web corpus would fill it."""

_TOO_SMALL = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")


def train_tokenizer(places: Sequence[Path], out: Path, *, size: int, kind: TokenizerKind = TokenizerKind.WORDPIECE) -> int:
    """Writes `out`, the same for the same texts, lower case; returns the number of pieces, at most `size`.

    A place is a folder with shards (all streams under it), a listing or a text file; of more texts than `texts.ROOM` holds a sample is
    taken. Raises UserError when they have no texts, `size` is too small for them, or `out` exists or cannot be written.
    """
    check_free(out)
    texts = sampled(corpus_texts(places))
    if not texts:
        raise UserError(f"no texts in {', '.join(map(str, places))}: nothing to make a vocabulary from")
    count, content = _wordpiece(texts, size) if kind is TokenizerKind.WORDPIECE else _sentencepiece(texts, size)
    write_fresh(out, content)
    return count


def _wordpiece(texts: Sequence[str], size: int) -> tuple[int, bytes]:
    letters = _merged(texts, list(SPECIALS), 0)
    # The trainer numbers letters in the order of a hash table and breaks ties by number: given first, they have fixed ones.
    pieces = _merged(texts, [*SPECIALS, *sorted(set(letters) - set(SPECIALS))], size)
    if len(pieces) > size:
        raise UserError(f"--size {size} is less than the {len(pieces)} letters of these texts: ask for more")
    return len(pieces), "".join(f"{piece}\n" for piece in pieces).encode()


def _merged(texts: Sequence[str], first: list[str], size: int) -> list[str]:
    """The vocabulary in order: what comes first, the letters that lack there, then the merged pieces up to the size."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return [piece for piece, _ in sorted(tokenizer.get_vocab().items(), key=lambda piece: piece[1])]


def _sentencepiece(texts: Sequence[str], size: int) -> tuple[int, bytes]:
    pad, unknown, cls, sep, mask = SPECIALS
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=size,
            hard_vocab_limit=False,  # a small corpus has fewer pieces
            character_coverage=_COVERAGE,
            normalization_rule_name="nmt_nfkc_cf",  # lower case
            max_sentence_length=4 * PASSAGE,  # bytes of UTF-8
            num_threads=1,  # sums of other threads would round otherwise
            pad_id=0,
            pad_piece=pad,
            unk_id=1,
            unk_piece=unknown,
            unk_surface=f" {unknown} ",
            bos_id=2,
            bos_piece=cls,
            eos_id=3,
            eos_piece=sep,
            control_symbols=[mask],
            minloglevel=2,  # errors only
        )
    except RuntimeError as error:
        few = _TOO_SMALL.search(str(error))
        why = f"is less than the {few[1]} letters of these texts: ask for more" if few else f"does not fit these texts ({error})"
        raise UserError(f"--size {size} {why}") from None
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size(), model.getvalue()
