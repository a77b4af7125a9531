"""The plain reference: one process, one graph, the whole similarity matrix, one backward by autograd, torch's AdamW and clipping.

It shares the modules with what it checks (their own tests hold them to the released model), and nothing of the training room.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch.nn import functional as F

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.objectives import Negatives
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.build import LOG_TEMPERATURE
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.initialise import initialise
from megatron_mplug2.models.microbatch import ContrastShare, Microbatch
from megatron_mplug2.models.mplug2 import Stage, chain
from megatron_mplug2.models.shapes import BatchShape, batch_shape
from megatron_mplug2.models.weights import Weight, named_weights
from megatron_mplug2.objectives.counts import local_counts
from megatron_mplug2.objectives.ids import equal_ids, pair_ids
from megatron_mplug2.objectives.negatives import draw_negatives
from megatron_mplug2.parallel.dropout import KeyedDropout
from megatron_mplug2.parallel.topology import StageRoles, make_topology
from tests.training import cases
from tests.training.queue_reference import MomentumReference
from tests.training.record import Record, StepRecord


def run(config: RunConfig, tasks: Sequence[Task]) -> Record:
    """Trains a step for each task; on one rank."""
    topology = make_topology(LayoutConfig(), StageRoles())
    context = ModelContext(config=config.model, topology=topology, dropout=KeyedDropout(config.training.seed, topology))
    stage = Stage(chain(config.model), context)
    weights = named_weights(stage, topology)
    initialise(weights, config.model, config.objectives.vlc.temperature, config.training.seed, topology)
    cases.randomise(weights, topology)
    trained = [weight for weight in weights if _is_trained(weight.name, config)]
    for weight in weights:
        weight.param.requires_grad_(_is_trained(weight.name, config))
    optimizer = _optimizer(config, trained)
    queued = config.objectives.vlc.negatives is Negatives.QUEUE
    momentum = MomentumReference(config, stage, Stage(chain(config.model), context), topology) if queued else None
    record = Record()
    for step, task in enumerate(tasks):
        stage.train()
        optimizer.zero_grad()
        micros = _microbatches(config, context, step, task)
        for micro in micros:  # all graphs are kept until the one backward
            stage({}, micro)
        log_temperature = next(weight.param for weight in weights if weight.name == LOG_TEMPERATURE)
        losses = {objective.value: float(sum(micro.values[objective] for micro in micros)) for objective in micros[0].values}
        losses = {name: loss for name, loss in losses.items() if getattr(config.objectives, name).weight}
        total = torch.stack([loss for micro in micros for loss in micro.losses]).sum()
        if task is not Task.TEXT:
            vlc_loss = (_whole_matrix_loss if momentum is None else momentum.loss)(micros, log_temperature)
            losses |= {"vlc": float(vlc_loss)} if config.objectives.vlc.weight else {}
            total = total + config.objectives.vlc.weight * vlc_loss
        total.backward()
        for weight in trained:  # a module outside the task has a zero gradient
            weight.param.grad = torch.zeros_like(weight.param) if weight.param.grad is None else weight.param.grad
        gradients = {weight.name: _unpadded(weight, weight.param.grad) for weight in trained}
        norm = torch.nn.utils.clip_grad_norm_([weight.param for weight in trained], config.optimizer.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = rate(config, step) * group["scale"]
        optimizer.step()
        vlc = config.objectives.vlc
        with torch.no_grad():
            log_temperature.copy_(log_temperature.exp().clamp(vlc.min_temperature, vlc.max_temperature).log())
        if momentum is not None:
            momentum.update()
        record.steps.append(
            StepRecord(
                losses=losses,
                grad_norm=float(norm),
                gradients=gradients,
                weights={weight.name: _unpadded(weight, weight.param.detach()) for weight in weights},
                negatives=_negatives(micros),
                averages=momentum.averages() if momentum is not None else {},
                queue=momentum.ring() if momentum is not None else {},
            )
        )
    return record


def _is_trained(name: str, config: RunConfig) -> bool:
    module = "temporal" if ".temporal." in name else name.split(".")[0]
    return module not in config.training.frozen


def _unpadded(weight: Weight, tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None
    return tensor[tuple(slice(size) for size in weight.full_size)].clone()


def rate(config: RunConfig, step: int) -> float:
    """Linear warm-up, cosine to the minimum, written out."""
    settings, done = config.optimizer, step + 1
    if done <= settings.warmup_steps:
        return settings.lr * done / settings.warmup_steps
    share = torch.tensor((done - settings.warmup_steps) / (config.steps - settings.warmup_steps), dtype=torch.float64)
    return float(settings.min_lr + (settings.lr - settings.min_lr) * (1 + torch.cos(share * torch.pi)) / 2)


def _optimizer(config: RunConfig, weights: Sequence[Weight]) -> torch.optim.AdamW:
    settings = config.optimizer
    groups = []
    for weight in weights:
        temporal, vision = ".temporal." in weight.name, weight.name.startswith("vision.")
        rule = settings.temporal if temporal else settings.vision if vision else settings.rest
        decay = settings.weight_decay * rule.decay_scale if weight.param.dim() > 1 else 0.0
        scale = rule.lr_scale * settings.layer_decay ** _below(weight.name, config)
        groups.append({"params": [weight.param], "weight_decay": decay, "scale": scale})
    return torch.optim.AdamW(groups, lr=1.0, betas=(settings.beta1, settings.beta2), eps=settings.eps)


def _below(name: str, config: RunConfig) -> int:
    """Blocks of a weight's tower from its own on, counted in a list of the tower's blocks, embedding first."""
    text = config.model.text
    plain = range(text.layers - text.universal_layers)
    towers = (
        ["vision.embedding", *(f"vision.blocks.{index}" for index in range(config.model.vision.blocks))],
        ["text.embedding", *(f"text.layers.{i}" for i in plain), *(f"universal.layers.{i}" for i in range(text.universal_layers))],
    )
    return next((len(tower) - place for tower in towers for place, block in enumerate(tower) if name.startswith(f"{block}.")), 0)


def _microbatches(config: RunConfig, context: ModelContext, step: int, task: Task) -> list[Microbatch]:
    batches = cases.work(config, step, task, 0, 1).batches
    counted = [local_counts(batch, config.objectives) for batch in batches]
    counts = {objective: sum(float(one[objective]) for one in counted) for objective in counted[0]}
    divisors = {objective: torch.tensor(count or torch.inf) for objective, count in counts.items()}
    micros = []
    for index, batch in enumerate(batches):
        samples = len(batch.sample_ids)
        micro = Microbatch(
            batch=batch,
            step=step,
            index=index,
            objectives=config.objectives,
            divisors=divisors,
            sequence=context.sequence,
            shape=_whole_shape(config, task, samples),
        )
        micro.solver = partial(_draw_only, config, micro)
        micros.append(micro)
    return micros


def _whole_shape(config: RunConfig, task: Task, samples: int) -> BatchShape:
    """With the rows of all objectives: those of no weight are computed too, and weigh nothing."""
    shape = batch_shape(config, task, samples=samples, frames=cases.PHASE.frames, resolution=cases.PHASE.resolution)
    text = task is Task.TEXT
    return replace(shape, texts=1, pairs=0 if text else 3, instructions=1 if text else config.objectives.lm.instructions)


def _draw_only(
    config: RunConfig, micro: Microbatch, vision: torch.Tensor, text: torch.Tensor, log_temperature: torch.Tensor
) -> ContrastShare:
    """Negatives, but no gradient: that comes from the features, which stay in the graph."""
    samples = micro.samples
    drawn = draw_negatives(
        vision,
        text,
        pair_ids(micro.pair),
        log_temperature,
        group_size=config.objectives.vlm.group,
        seed=config.training.seed,
        step=micro.step,
        sample_positions=torch.arange(micro.index * samples, (micro.index + 1) * samples),
    )
    return ContrastShare(
        image_for_text=drawn.image_for_text,
        text_for_image=drawn.text_for_image,
        vision_features=vision,
        text_features=text,
        vision_grad=torch.zeros_like(vision),
        text_grad=torch.zeros_like(text),
        log_temperature_grad=torch.zeros(()),
        loss=torch.zeros(()),
    )


def _whole_matrix_loss(micros: Sequence[Microbatch], log_temperature: torch.Tensor) -> torch.Tensor:
    """Cross-entropies over the rows and the columns of all samples' similarities, positives by equal ids."""
    features = [micro.features for micro in micros if micro.features is not None]
    vision, text = (torch.cat(parts) for parts in zip(*features, strict=True))
    ids = torch.cat([pair_ids(micro.pair) for micro in micros])
    similarity = vision @ text.T / log_temperature.exp()
    targets = equal_ids(ids, ids).float()
    targets = targets / targets.sum(1, keepdim=True)
    return (F.cross_entropy(similarity, targets) + F.cross_entropy(similarity.T, targets)) / 2


def _negatives(micros: Sequence[Microbatch]) -> torch.Tensor | None:
    """[2, global batch], rows of the global batch; -1 where there is none."""
    rows = []
    for micro in micros:
        if micro.contrast is None:
            return None
        drawn = torch.stack([micro.contrast.image_for_text, micro.contrast.text_for_image])
        rows.append(torch.where(drawn >= 0, drawn + micro.index * micro.samples, -1))
    return torch.cat(rows, 1)
