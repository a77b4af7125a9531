"""What `mplug2 data filter` asks of a sample by itself, whatever else the corpus holds."""

from dataclasses import dataclass, replace

from data_tools.sample import Reason, Sample
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.media_facts import MediaFacts
from megatron_mplug2.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Bounds, each inclusive; None asks for nothing."""

    min_words: int | None = None
    """Words of a caption, between blanks."""
    max_words: int | None = None
    min_side: int | None = None
    """Pixels of the shorter side."""
    max_aspect: float | None = None
    """Longer side by shorter side."""
    min_seconds: float | None = None
    """Of a clip, or of the part of it that the texts speak of."""
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        """Raises UserError for bounds that nothing can be within."""
        for what, least, most in (("words", self.min_words, self.max_words), ("seconds", self.min_seconds, self.max_seconds)):
            if least is not None and most is not None and least > most:
                raise UserError(f"--min-{what} {least} is more than --max-{what} {most}: nothing is within both")

    @property
    def settings(self) -> dict[str, str]:
        """Those that are set, by name."""
        return {name.replace("_", " "): str(value) for name, value in vars(self).items() if value is not None}


def obeying(sample: Sample, rules: Rules) -> Sample:
    """The sample without the captions that are too short or too long; left out where none of its captions is left, or by its media."""
    captions = tuple(caption for caption in sample.record.captions if _within(len(caption.split()), rules.min_words, rules.max_words))
    if sample.record.captions and not captions:
        words = sorted({len(caption.split()) for caption in sample.record.captions})
        return sample.without(Reason.CAPTION_LENGTH, f"{', '.join(map(str, words))} words")
    facts = sample.look.facts if sample.look else None
    if facts and (fault := _wrong_size(facts, rules)):
        return sample.without(Reason.SIZE, fault)
    if facts and sample.stream is Task.VIDEO_TEXT and not _within(seconds := _seconds(sample, facts), rules.min_seconds, rules.max_seconds):
        return sample.without(Reason.DURATION, f"{seconds:.2f} s")
    return replace(sample, record=replace(sample.record, captions=captions))


def _wrong_size(facts: MediaFacts, rules: Rules) -> str:
    """Empty for a size that is right."""
    short, long = sorted((facts.width, facts.height))
    right = _within(short, rules.min_side, None) and _within(long / short, None, rules.max_aspect)
    return "" if right else f"{facts.width}x{facts.height} pixels"


def _seconds(sample: Sample, facts: MediaFacts) -> float:
    span = sample.record.span_s
    return facts.duration_s if span is None else span[1] - span[0]


def _within(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)
