"""Cross-field checks of the config tree. Each finds sentences that name the dotted keys that don't fit, with their figures."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from megatron_mplug2.config.class_checks import class_errors
from megatron_mplug2.config.dataset_checks import dataset_errors, folder_errors
from megatron_mplug2.config.engine_checks import engine_errors
from megatron_mplug2.config.speaking_checks import caption_loss_errors, grounding_errors

if TYPE_CHECKING:
    from megatron_mplug2.config.downstream import Family
    from megatron_mplug2.config.layout import LayoutConfig
    from megatron_mplug2.config.model import ModelConfig, Module
    from megatron_mplug2.config.objectives import ObjectivesConfig
    from megatron_mplug2.config.schedule import Task
    from megatron_mplug2.config.schema import RunConfig

VOCAB_MULTIPLE = 1024
"""The vocabulary is padded to a multiple of this, whatever the layout, so that weights have one shape everywhere."""


def report(errors: list[str], collected: list[str] | None) -> None:
    """Hands the errors to whoever collects them (a list given as pydantic's validation context), else raises them as ValueError."""
    if collected is not None:
        collected.extend(errors)
    elif errors:
        raise ValueError("; ".join(errors))


def model_errors(model: ModelConfig) -> list[str]:
    """What cannot be built at any layout."""
    vision, text = model.vision, model.text
    errors = [
        *_divides("model.vision.heads", vision.heads, "model.vision.width", vision.width),
        *_divides("model.text.heads", text.heads, "model.text.hidden", text.hidden),
        *_divides("model.vision.patch", vision.patch, "model.vision.resolution", vision.resolution),
    ]
    if vision.width % 2:
        errors.append(f"model.vision.width={vision.width} is odd: the temporal modules' bottleneck is half of it")
    if text.universal_layers >= text.layers:
        errors.append(
            f"model.text.universal_layers={text.universal_layers} must be less than model.text.layers={text.layers}, which counts them"
        )
    return errors


def run_errors(run: RunConfig) -> list[str]:
    """What cannot be run: sizes against the layout, batches, texts, phases, data and optimizer against each other."""
    return [
        *_tensor_errors(run.model, run.layout.tensor),
        *_pipeline_errors(run.model, run.layout),
        *_layout_errors(run.layout),
        *engine_errors(run),
        *_batch_errors(run),
        *_length_errors(run),
        *_objective_errors(run),
        *_queue_errors(run),
        *_frozen_errors(run),
        *_phase_errors(run),
        *folder_errors(run),
        *dataset_errors(run),
        *_optimizer_errors(run),
        *_health_errors(run),
        *_downstream_errors(run),
        *class_errors(run),
    ]


def padded_vocab(vocab_size: int) -> int:
    """Rows of the embedding tables: the vocabulary and its pad rows."""
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


UNITS_BESIDE_LAYERS = 8
"""Vision embedding and output, text embedding, decoder embedding, and the heads of the four objectives."""


def chain_units(model: ModelConfig) -> int:
    """Units of the chain that the pipeline cuts into stages (`models.mplug2.chain`)."""
    return UNITS_BESIDE_LAYERS + model.vision.blocks + model.text.layers + model.fusion_layers + model.decoder_layers


def _divides(divisor_key: str, divisor: int, key: str, value: int) -> Iterator[str]:
    if value % divisor:
        yield f"{divisor_key}={divisor} does not divide {key}={value}"


def _tensor_errors(model: ModelConfig, tensor: int) -> Iterator[str]:
    vision, text = model.vision, model.text
    vocab = padded_vocab(text.vocab_size)
    split_over_ranks = [
        (f"model.vision.heads={vision.heads}", vision.heads),
        (f"model.vision.ffn={vision.ffn}", vision.ffn),
        (f"{vision.width // 2}, half of model.vision.width={vision.width}", vision.width // 2),
        (f"model.text.heads={text.heads}", text.heads),
        (f"model.text.ffn={text.ffn}", text.ffn),
        (f"{vocab}, which is model.text.vocab_size={text.vocab_size} padded", vocab),
    ]
    for shown, size in split_over_ranks:
        if size % tensor:
            yield f"layout.tensor={tensor} does not divide {shown}"


def _pipeline_errors(model: ModelConfig, layout: LayoutConfig) -> Iterator[str]:
    units = chain_units(model)
    if layout.pipeline > units:
        yield f"layout.pipeline={layout.pipeline} is more than the {units} units of the model's chain"
    starts = layout.stage_starts
    if starts is None:
        return
    shown = list(starts)
    if len(starts) != layout.pipeline - 1:
        yield f"layout.stage_starts={shown} must name {layout.pipeline - 1} stages: layout.pipeline={layout.pipeline} without stage 0"
    if any(second <= first for first, second in pairwise(starts)):
        yield f"layout.stage_starts={shown} must rise"
    if any(not 0 < start < units for start in starts):
        yield f"layout.stage_starts={shown} must lie within 1..{units - 1}: the model's chain has {units} units"


def _layout_errors(layout: LayoutConfig) -> Iterator[str]:
    if layout.sequence_parallel and layout.tensor == 1:
        yield "layout.sequence_parallel=true needs layout.tensor > 1"
    if layout.overlap_param_gather and not (layout.zero1 and layout.overlap_grad_reduce):
        yield "layout.overlap_param_gather=true needs layout.zero1=true and layout.overlap_grad_reduce=true"


def _batch_errors(run: RunConfig) -> Iterator[str]:
    training, data = run.training, run.layout.data
    if training.global_batch % (training.microbatch * data):
        yield (
            f"training.global_batch={training.global_batch} is not a multiple of "
            f"training.microbatch={training.microbatch} x layout.data={data} = {training.microbatch * data}"
        )
    vlm = run.objectives.vlm
    pairs = any(phase.image_text > 0 or phase.video_text > 0 for phase in run.schedule)
    if pairs and vlm.weight > 0 and training.microbatch % vlm.group:
        yield (
            f"training.microbatch={training.microbatch} is not a multiple of objectives.vlm.group={vlm.group}: "
            "the group that negatives are drawn from lies inside a microbatch"
        )


def _length_errors(run: RunConfig) -> Iterator[str]:
    positions = run.model.text.positions
    for name in ("text_length", "document_length", "target_length"):
        length = getattr(run.data, name)
        if length > positions:
            yield f"data.{name}={length} is more than model.text.positions={positions}"
    smallest, largest = run.data.crop_scale
    if not 0 < smallest <= largest <= 1:
        yield f"data.crop_scale={list(run.data.crop_scale)} must be a rising pair within 0..1"


def _objective_errors(run: RunConfig) -> Iterator[str]:
    mlm, vlc = run.objectives.mlm, run.objectives.vlc
    if mlm.mask_share + mlm.random_share > 1:
        yield f"objectives.mlm.mask_share={mlm.mask_share} and objectives.mlm.random_share={mlm.random_share} are more than 1 together"
    if not vlc.min_temperature <= vlc.temperature <= vlc.max_temperature:
        yield (
            f"objectives.vlc.temperature={vlc.temperature} is not between objectives.vlc.min_temperature={vlc.min_temperature} "
            f"and objectives.vlc.max_temperature={vlc.max_temperature}"
        )


def _queue_errors(run: RunConfig) -> Iterator[str]:
    from megatron_mplug2.config.objectives import Negatives

    vlc, global_batch = run.objectives.vlc, run.training.global_batch
    if vlc.negatives is Negatives.QUEUE and vlc.queue.size % global_batch:
        yield f"objectives.vlc.queue.size={vlc.queue.size} is not a multiple of training.global_batch={global_batch}"


def modules_used(model: ModelConfig, objectives: ObjectivesConfig, task: Task) -> frozenset[Module]:
    """Modules with a weight that the loss of a step of `task` depends on; none where no objective of the task has a weight."""
    from megatron_mplug2.config.model import Module
    from megatron_mplug2.config.schedule import Task

    lm, pairs = objectives.lm.weight > 0, task is not Task.TEXT
    first, second = (objectives.vlc, objectives.vlm) if pairs else (objectives.mlm, objectives.mlm)
    if not (lm or first.weight or second.weight):
        return frozenset()
    used = {Module.TEXT, Module.UNIVERSAL, Module.HEADS, *([Module.DECODER] if lm else [])}
    if pairs:
        used |= {Module.VISION, *([Module.FUSION] if lm or second.weight else [])}
        used |= {Module.TEMPORAL} if task is Task.VIDEO_TEXT or model.vision.temporal_on_images else set()
    return frozenset(used)


def _frozen_errors(run: RunConfig) -> Iterator[str]:
    from megatron_mplug2.config.model import Module
    from megatron_mplug2.config.schedule import Task

    frozen = run.training.frozen
    if set(frozen) == set(Module):
        yield "training.frozen names every module: leave one out, to be trained"
        return
    shown = [module.value for module in frozen]
    for index, phase in enumerate(run.schedule):
        for task in Task:
            used = modules_used(run.model, run.objectives, task)
            if phase.share(task) > 0 and not used:
                yield f"schedule.{index}.{task} has no objective with a weight: give objectives.*.weight one, or the task no share"
            elif phase.share(task) > 0 and used.issubset(frozen):
                yield f"training.frozen={shown} leaves schedule.{index}.{task} nothing to train: leave one out"


def _phase_errors(run: RunConfig) -> Iterator[str]:
    for index, phase in enumerate(run.schedule):
        yield from _divides("model.vision.patch", run.model.vision.patch, f"schedule.{index}.resolution", phase.resolution)
        if phase.text + phase.image_text + phase.video_text == 0:
            yield f"schedule.{index} has no task: one of its text, image_text and video_text must be positive"


def _optimizer_errors(run: RunConfig) -> Iterator[str]:
    optimizer = run.optimizer
    if optimizer.warmup_steps >= run.steps:
        yield f"optimizer.warmup_steps={optimizer.warmup_steps} must be less than the {run.steps} steps of the schedule"
    if optimizer.min_lr > optimizer.lr:
        yield f"optimizer.min_lr={optimizer.min_lr} is more than optimizer.lr={optimizer.lr}"


def _health_errors(run: RunConfig) -> Iterator[str]:
    factor = run.training.spike_factor
    if 0 < factor <= 1:
        yield f"training.spike_factor={factor} would call every other step a spike: it must be more than 1, or 0 for none"


def _downstream_errors(run: RunConfig) -> Iterator[str]:
    from megatron_mplug2.config.schedule import Task

    downstream = run.downstream
    if downstream is None:
        return
    family = downstream.family
    for index, phase in enumerate(run.schedule):
        for task in Task:
            if (phase.share(task) > 0) != (task is family.task):
                what = f"needs {family.task}" if task is family.task else f"takes {family.task} alone"
                yield f"schedule.{index}.{task}={phase.share(task):g}: downstream.family={family} {what}"
    yield from _family_weight_errors(run, family)
    yield from grounding_errors(run, family)
    yield from caption_loss_errors(run, family)
    if downstream.best is not None and not run.training.validate_every:
        yield "downstream.best needs training.validate_every: a figure of validation says which checkpoint is best"


def _family_weight_errors(run: RunConfig, family: Family) -> Iterator[str]:
    from megatron_mplug2.config.downstream import FamilyKind

    objectives = run.objectives
    weights = {"vlc": objectives.vlc.weight, "vlm": objectives.vlm.weight, "lm": objectives.lm.weight}
    needed, useless = (("vlc",), ("lm",)) if family.kind is FamilyKind.RETRIEVAL else (("lm",), ("vlc", "vlm"))
    for name in needed:
        if not weights[name]:
            yield f"objectives.{name}.weight=0: downstream.family={family} needs it"
    for name in useless:
        if weights[name]:
            yield f"objectives.{name}.weight={weights[name]:g}: downstream.family={family} does not train it; set it to 0"
