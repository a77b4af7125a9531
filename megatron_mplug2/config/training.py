"""How a run's steps are taken, watched and saved."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from megatron_mplug2.config.layout import EngineChoice
from megatron_mplug2.config.model import Block, Module
from megatron_mplug2.config.node import Frozen


class Precision(StrEnum):
    FP32 = "fp32"
    BF16 = "bf16"


class OnBadStep(StrEnum):
    """What follows a step whose loss or gradient norm is no number, or a spike."""

    STOP = "stop"
    """The run ends before the update."""
    SKIP = "skip"
    """The step makes no update: weights, moments and Adam's count stay as they were, and the next step's samples follow."""
    ROLL_BACK = "roll_back"
    """Weights and optimizer go back to the newest checkpoint; the samples of all steps since it are left out."""


class InitialiseConfig(Frozen):
    """Weights of another run to begin with; what is not named begins as ever."""

    checkpoint: Path
    """A checkpoint's folder, or a run's, whose newest good one is taken."""
    modules: tuple[str, ...] = Field(min_length=1)
    """Beginnings of canonical names, such as "vision" or "text.layers.0": all weights under each, which both models must have alike."""


def _named_blocks(value: Any) -> Any:
    """The words `none` and `full` of `training.recompute`."""
    if isinstance(value, str) and value not in ("none", "full"):
        raise PydanticCustomError("recompute", "must be none, full or a list of {blocks}", {"blocks": ", ".join(Block)})
    return {"none": (), "full": tuple(Block)}[value] if isinstance(value, str) else value


def _in_order(modules: tuple[Module, ...]) -> tuple[Module, ...]:
    """Each once, so that a resume finds the same modules the same however they were written."""
    return tuple(module for module in Module if module in modules)


class TrainingConfig(Frozen):
    global_batch: int = Field(gt=0)
    """Samples a step."""
    microbatch: int = Field(gt=0)
    """Samples a forward pass of one rank."""
    precision: Precision = Precision.FP32
    engine: EngineChoice = EngineChoice.MEGATRON
    recompute: Annotated[tuple[Block, ...], BeforeValidator(_named_blocks)] = ()
    """Kinds of blocks of which only what enters them is kept, the rest computed again in the backward pass; `full` names all, `none` none.
    There is no finer choice: fused attention, the usual one, keeps nothing that grows with the square of a length."""
    frozen: Annotated[tuple[Module, ...], AfterValidator(_in_order)] = ()
    """Modules whose weights stay as the run begins with them (`initialise_from`): no gradient, no optimizer state, no backward pass in
    front of the first trained weight. A block without a trained weight runs without dropout, as a fixed function of what enters it."""
    seed: int = Field(default=0, ge=0)
    log_every: int = Field(default=10, gt=0)
    validate_every: int = Field(default=0, ge=0)
    """Steps between validations; 0 never."""
    validation_batches: int = Field(default=4, gt=0)
    """Global batches of each stream that a validation takes."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Share that the average over steps of a weight keeps at a step (Polyak & Juditsky 1992; usual in long runs: 0.9999). 0: none.
    Validation and evaluation take the averages; training goes on from the weights, and an export takes them."""
    checkpoint_every: int = Field(default=1000, gt=0)
    keep_checkpoints: int = Field(default=2, gt=0)
    """The last ones that stay."""
    keep_every: int = Field(default=0, ge=0)
    """Checkpoints after a multiple of this many steps stay for good; 0 none."""
    async_save: bool = True
    """Write checkpoints beside the next steps, from a copy in host memory as large as what the rank saves."""
    threads: int = Field(default=1, gt=0)
    """CPU threads a rank."""
    on_bad_step: OnBadStep = OnBadStep.STOP
    bad_step_limit: int = Field(default=3, gt=0)
    """Bad steps in a row at which a run stops all the same."""
    spike_factor: float = Field(default=0.0, ge=0)
    """A step is a spike where its weighted loss or its gradient norm is more than so many times the median of its task's last steps;
    0: none is."""
    hang_timeout_s: float = Field(default=1800.0, ge=0, le=3600)
    """Without progress of a rank for so long (a step's section, a batch of validation) the run is ended; 0 never. At most half of torch's
    own limit, `parallel.topology.GROUP_TIMEOUT`."""
    peak_tflops: float | None = Field(default=None, gt=0)
    """Peak of one device at the run's precision, for MFU; None takes a known GPU's from `observability.efficiency`."""
    deterministic: bool = False
    """Bit-identical repetition on GPUs, slower; on the CPU a run repeats anyway."""
