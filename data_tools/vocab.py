"""Trains a WordPiece vocabulary on the texts of a corpus."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from data_tools.progress import track
from data_tools.verify import stream_folders
from megatron_mplug2.config.schema import LMConfig
from megatron_mplug2.data.manifest import Manifest, MediaKind
from megatron_mplug2.errors import UserError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""First in the vocabulary, in this order."""


def train_vocab(places: Sequence[Path], out: Path, size: int) -> int:
    """Writes `out`, one piece a line, lower case, the same for the same texts; returns the number of pieces, at most `size`.

    A place is a folder with shards (all streams under it) or a text file. Raises UserError when a place has no texts, or `out` exists.
    """
    try:
        if out.exists():
            raise UserError(f"{out} exists already: choose another name, or delete it first")
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None
    letters = _train(places, list(SPECIAL), 0)
    # The trainer numbers letters in the order of a hash table and breaks ties by number: given first, they have fixed ones.
    pieces = _train(places, [*SPECIAL, *sorted(set(letters) - set(SPECIAL))], size)
    if len(pieces) <= len(SPECIAL):
        raise UserError(f"no texts in {', '.join(map(str, places))}: nothing to make a vocabulary from")
    if len(pieces) > size:
        raise UserError(f"--size {size} is less than the {len(pieces)} letters of these texts: ask for more")
    partial = out.with_name(f"{out.name}.partial")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        partial.write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
        partial.rename(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None
    return len(pieces)


def _train(places: Sequence[Path], first: list[str], size: int) -> list[str]:
    """The vocabulary in order: what comes first, the letters that lack there, then the merged pieces up to the size."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator((text for place in places for text in _texts(place)), trainer)
    return [piece for piece, _ in sorted(tokenizer.get_vocab().items(), key=lambda piece: piece[1])]


def _texts(place: Path) -> Iterator[str]:
    if place.is_dir():
        for folder in stream_folders(place):
            yield from _manifest_texts(Manifest.load(folder), str(folder))
        return
    try:
        with place.open(encoding="utf-8", errors="replace") as lines:
            yield from lines
    except OSError as error:
        raise UserError(f"cannot read {place}: {error.strerror}") from None


def _manifest_texts(manifest: Manifest, name: str) -> Iterator[str]:
    instruction = {MediaKind.IMAGE: LMConfig().image_instruction, MediaKind.VIDEO: LMConfig().video_instruction}.get(manifest.kind)
    for number in track(range(len(manifest)), name, len(manifest)):
        record = manifest.record(number)
        yield record.text
        yield from record.captions
        for question in record.questions:
            yield question.question
            yield question.answer
        if instruction is not None:
            yield instruction  # the model reads it with every picture and clip
