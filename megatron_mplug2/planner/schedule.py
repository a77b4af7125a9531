"""In which order a pipeline stage works on its microbatches: the rules of Megatron-Core's schedule without interleaving.

`megatron.core.pipeline_parallel.schedules.forward_backward_pipelining_without_interleaving`, which `training.passes` calls.
"""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    FEATURES = "features"
    """Forward without gradients up to the contrastive head: VLC's first pass, and that of momentum encoders."""
    FORWARD = "forward"
    BACKWARD = "backward"


@dataclass(frozen=True)
class Work:
    """What a stage does without a break."""

    kind: Kind
    microbatch: int


Order = tuple[Work, ...]


def warm_up(stages: int, stage: int, microbatches: int) -> int:
    """Forward passes that a stage makes before its first backward's own: as many as there are stages after it, if there are so many."""
    return min(stages - stage - 1, microbatches)


def one_forward_one_backward(stages: int, stage: int, microbatches: int) -> Order:
    """1F1B of one stage: warm-up of forward passes, then forward and backward in turn, then the backward passes that are left."""
    ahead = warm_up(stages, stage, microbatches)
    order = [Work(Kind.FORWARD, number) for number in range(ahead)]
    for number in range(microbatches - ahead):
        order += [Work(Kind.FORWARD, ahead + number), Work(Kind.BACKWARD, number)]
    return (*order, *(Work(Kind.BACKWARD, number) for number in range(microbatches - ahead, microbatches)))


def feature_order(microbatches: int) -> Order:
    """Of every stage up to the one with the contrastive head."""
    return tuple(Work(Kind.FEATURES, number) for number in range(microbatches))
