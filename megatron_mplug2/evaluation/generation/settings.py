"""How a sequence is chosen, and how long it may be."""

from dataclasses import dataclass
from enum import StrEnum

from megatron_mplug2.errors import UserError


class Mode(StrEnum):
    STANDARD = "standard"
    """Beam search that ends a beam where it ends."""
    RELEASED = "released"
    """As the released code does, token for token, with its quirks: for its figures with its weights."""
    GREEDY = "greedy"
    """The likeliest token each time."""
    SAMPLE = "sample"
    """A drawn token each time."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    mode: Mode = Mode.STANDARD
    beams: int = 5  # [CODE]
    """Sequences of a sample that beam search keeps."""
    temperature: float = 1.0
    """Logits are divided by it before a draw."""
    top_p: float = 1.0
    """A token is drawn among the fewest likeliest ones that have this probability together."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        """Raises UserError for a number out of range."""
        if self.beams < 1:
            raise UserError(f"beams={self.beams}: give 1 or more")
        if not self.temperature > 0:
            raise UserError(f"temperature={self.temperature}: give a number above 0 (for no draw at all, mode {Mode.GREEDY})")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p}: give a number above 0, at most 1")

    @property
    def width(self) -> int:
        """Sequences of a sample that are decoded side by side."""
        return self.beams if self.mode in (Mode.STANDARD, Mode.RELEASED) else 1


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Lengths count generated tokens: [SEP] is one of them, [CLS] is not."""

    min_length: int
    """Tokens before [SEP] may come."""
    max_length: int
    """Tokens after which a sequence is taken as it is."""
    start: int
    """Id of [CLS], with which every sequence begins."""
    end: int
    """Id of [SEP]."""
    pad: int
    """Id of [PAD]."""
