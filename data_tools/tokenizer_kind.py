"""The kinds of tokenizer that can be trained."""

from enum import StrEnum


class TokenizerKind(StrEnum):
    WORDPIECE = "wordpiece"
    """A text file with a piece a line, as bert-base-uncased's."""
    SENTENCEPIECE = "sentencepiece"
    """A unigram model."""
