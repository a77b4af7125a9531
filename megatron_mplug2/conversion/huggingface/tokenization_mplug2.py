"""A sentencepiece vocabulary for transformers: the library itself cuts the texts. A text is [CLS] X, a pair [CLS] A [SEP] B [SEP]."""

import shutil
from pathlib import Path
from typing import Any, ClassVar

import sentencepiece
from transformers import PreTrainedTokenizer


class MPlug2SentencePieceTokenizer(PreTrainedTokenizer):
    """[PAD], [UNK], [CLS], [SEP] and [MASK] are symbols of the model that no text can spell."""

    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "sentencepiece.model"}
    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file: str, **kwargs: Any) -> None:
        self.vocab_file = vocab_file
        self.model = sentencepiece.SentencePieceProcessor(model_file=vocab_file)
        super().__init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        return int(self.model.get_piece_size())

    def get_vocab(self) -> dict[str, int]:
        return {self.model.id_to_piece(number): number for number in range(self.vocab_size)}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        # By ids: a piece that is not in the model would else be its own text.
        return [self.model.id_to_piece(number) for number in self.model.encode(text)]

    def _convert_token_to_id(self, token: str) -> int:
        return int(self.model.piece_to_id(token))

    def _convert_id_to_token(self, index: int) -> str:
        return str(self.model.id_to_piece(index))

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return str(self.model.decode([self.model.piece_to_id(token) for token in tokens]))

    def build_inputs_with_special_tokens(self, token_ids_0: list[int], token_ids_1: list[int] | None = None) -> list[int]:
        start = [self.cls_token_id, *token_ids_0]
        return start if token_ids_1 is None else [*start, self.sep_token_id, *token_ids_1, self.sep_token_id]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        place = Path(save_directory) / f"{filename_prefix + '-' if filename_prefix else ''}{self.vocab_files_names['vocab_file']}"
        if place.resolve() != Path(self.vocab_file).resolve():
            shutil.copyfile(self.vocab_file, place)
        return (str(place),)
