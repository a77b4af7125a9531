"""Caption measures as COCO's evaluation makes them: pycocoevalcap's scorers over its Penn Treebank tokens."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.spice import spice

from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.metrics.java import require_java, tokenized

NOTHING = "nothingsaid"
"""Stands for a caption without words, which METEOR cannot read; it is in no reference."""
_SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")

_Texts = Mapping[int, Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class CaptionScores:
    """Percent, as papers print them (CIDEr may be above 100)."""

    bleu: tuple[float, float, float, float]
    """BLEU-1 to BLEU-4, of all captions together."""
    meteor: float
    rouge_l: float
    cider: float
    spice: float | None
    """None where `without_spice` says why."""
    without_spice: str | None
    each_cider: tuple[float, ...]
    """Of each caption."""


def caption_scores(said: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Of captions, each against all its references (at least one).

    Takes about 20 seconds for METEOR to start, then some hundred captions a second. Raises UserError without Java, or where METEOR fails.
    """
    require_java()
    counts = [len(texts) for texts in references]
    tokens = iter(tokenized([*said, *(text for texts in references for text in texts)]))
    candidates: _Texts = {place: [next(tokens) or NOTHING] for place in range(len(said))}
    truths: _Texts = {place: [next(tokens) for _ in range(count)] for place, count in enumerate(counts)}
    bleu, _ = Bleu(4).compute_score(truths, candidates, verbose=0)
    rouge, _ = Rouge().compute_score(truths, candidates)
    cider, each = Cider().compute_score(truths, candidates)
    spice_score, without = _spice(truths, candidates)
    return CaptionScores(
        bleu=(100 * bleu[0], 100 * bleu[1], 100 * bleu[2], 100 * bleu[3]),
        meteor=100 * _meteor(truths, candidates),
        rouge_l=100 * float(rouge),
        cider=100 * float(cider),
        spice=spice_score,
        without_spice=without,
        each_cider=tuple(100 * float(one) for one in each),
    )


def _meteor(references: _Texts, said: _Texts) -> float:
    try:
        score, _ = Meteor().compute_score(references, said)
    except (ValueError, OSError) as error:  # its program ended, or said something else than a number
        raise UserError(f"METEOR's program on Java failed ({error}): it takes 2 GB of memory; try `java -Xmx2G -version`") from None
    return float(score)


def _spice(references: _Texts, said: _Texts) -> tuple[float | None, str | None]:
    """The score, or why there is none: pycocoevalcap would download its models, which an evaluation must not do."""
    folder = Path(spice.__file__).parent
    missing = [name for name in _SPICE_MODELS if not (folder / "lib" / name).is_file()]
    if missing:
        return None, f"SPICE is left out: {folder / 'lib'} has no {missing[0]} (pycocoevalcap's get_stanford_models.py fetches it)"
    try:
        score, _ = spice.Spice().compute_score(references, said)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        return None, f"SPICE is left out: its program failed ({error}); it was made for Java 8, and writes into {folder}"
    return 100 * float(score), None
