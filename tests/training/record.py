"""What a run of a few steps leaves behind to be compared: losses, norms, full gradients and weights, and the negatives drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.training import contrast
from megatron_mplug2.training import step as step_module
from megatron_mplug2.training.engine import Engine, make_engine
from tests.training import cases


@dataclass
class StepRecord:
    losses: dict[str, float]
    grad_norm: float
    gradients: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    negatives: torch.Tensor | None
    """[2, samples], rows within the microbatch."""
    averages: dict[str, torch.Tensor] = field(default_factory=dict)
    """Weights of the momentum encoders; none without a queue, as is `queue`."""
    queue: dict[str, torch.Tensor] = field(default_factory=dict)
    """What is in the queue, in order of slots, and how much ever was; on the stage that has it."""


@dataclass
class Record:
    """Of a single process, or of one rank (its own shards)."""

    steps: list[StepRecord] = field(default_factory=list)
    coordinates: tuple[int, int, int] = (0, 0, 0)
    """Tensor, data and pipeline rank."""
    splits: dict[str, int | None] = field(default_factory=dict)
    """Name -> dimension that is split over tensor-parallel ranks."""
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def run(config: RunConfig, tasks: Sequence[Task]) -> Record:
    """Trains a step for each task on this rank of the layout."""
    return run_whole(begin(config), tasks)


def run_whole(engine: Engine, tasks: Sequence[Task]) -> Record:
    """From an engine that nobody trains further: gathered in the end, its weights are what the optimizers had left."""
    record = train(engine, tasks)
    engine.finish_gathering()
    last = record.steps[-1].weights
    assert all(torch.equal(weight.param, last[_key(weight)]) for weight in engine.weights), "other weights are gathered than were updated"
    return record


def begin(config: RunConfig) -> Engine:
    """With random weights, and in bf16 with their fp32 copies."""
    engine = make_engine(config)
    cases.randomise(engine.weights, engine.topology)
    engine.optimizer.reload_model_params()
    return engine


def train(engine: Engine, tasks: Sequence[Task], first: int = 0) -> Record:
    """Steps `first`, `first` + 1, ... of an engine, a task each; `engine` as it is."""
    config, topology = engine.config, engine.topology
    record = Record(
        coordinates=(topology.tensor_rank, topology.data_rank, topology.pipeline_rank),
        splits={weight.name: weight.partition_dim for weight in engine.weights},
        sizes={weight.name: weight.full_size for weight in engine.weights},
    )
    drawn: list[torch.Tensor] = []
    _record_negatives(drawn)
    for number, task in enumerate(tasks, first):
        drawn.clear()
        told = step_module.backward(engine, cases.work(config, number, task, topology.data_rank, topology.data_size))
        values = told.read()
        step_module.enqueue(engine, told)
        gradients = _gradients(engine)
        norm, _ = engine.update(number)
        record.steps.append(
            StepRecord(
                losses={objective.value: loss for objective, loss in values.losses.items()},
                grad_norm=norm,
                gradients=gradients,
                weights=_weights(engine),
                negatives=torch.stack(drawn) if drawn else None,
                averages=_averages(engine),
                queue=_queue(engine),
            )
        )
    return record


def _key(weight: Weight) -> str:
    return weight.name if weight.saves else f"{weight.name} (copy)"


def _weights(engine: Engine) -> dict[str, torch.Tensor]:
    """As the optimizers have left them. Where their gathering overlaps the next forward pass they are put together beside the model, which
    keeps old ones until that gathering, as in a real run."""
    gathered: dict[torch.nn.Parameter, torch.Tensor] = {}
    if engine.config.layout.overlaps_gathering:
        for buffer in engine.ddp.buffers:
            whole = torch.cat([_together(bucket.param_data, engine) for bucket in buffer.buckets])
            places = buffer.param_index_map.items()
            gathered |= {param: whole[start:stop].view(param.shape) for param, (start, stop, _) in places}
    return {_key(weight): gathered.get(weight.param, weight.param).detach().clone() for weight in engine.weights}


def _averages(engine: Engine) -> dict[str, torch.Tensor]:
    if engine.momentum is None:
        return {}
    return {weight.name: average.clone() for weight, average in zip(engine.momentum.weights, engine.momentum.averages, strict=True)}


def _queue(engine: Engine) -> dict[str, torch.Tensor]:
    if engine.momentum is None or engine.momentum.queue is None:
        return {}
    queue = engine.momentum.queue
    keys = {"vision": queue.filled.vision, "text": queue.filled.text, "ids": queue.filled.ids, "enqueued": queue.enqueued}
    return {name: tensor.clone() for name, tensor in keys.items()}


def _record_negatives(drawn: list[torch.Tensor]) -> None:
    """Listens to what every rank is told about negatives, in order of microbatches."""
    share_negatives = contrast.share_negatives

    def listening(*arguments):  # type: ignore[no-untyped-def]
        shares = share_negatives(*arguments)
        drawn.extend(torch.stack([share.image_for_text, share.text_for_image]) for share in shares)
        return shares

    contrast.share_negatives = listening


def _gradients(engine: Engine) -> dict[str, torch.Tensor]:
    """Each trained parameter's reduced gradient; with ZeRO-1 the data-parallel ranks' shards are put together."""
    if engine.config.layout.zero1:
        for bucket_group in engine.ddp.bucket_groups:
            for bucket in bucket_group.buckets:
                bucket.grad_data.copy_(_together(bucket.grad_data, engine))
    trained = [weight for weight in engine.weights if weight.param.requires_grad]
    return {_key(weight): weight.param.main_grad.clone() for weight in trained}  # type: ignore[attr-defined]


def _together(data: torch.Tensor, engine: Engine) -> torch.Tensor:
    """A bucket's numbers in new memory, of each data-parallel rank its own range."""
    group = engine.topology.data_group
    whole = torch.empty_like(data)
    dist.all_gather_into_tensor(whole, data.chunk(group.size())[group.rank()].clone(), group=group)
    return whole


def merge(records: Sequence[Record], step: int, kind: str) -> dict[str, torch.Tensor]:
    """Full tensors by name from all ranks' shards of "gradients", "weights" or "averages"; every copy must be equal bit for bit."""
    full: dict[str, torch.Tensor] = {}
    shards: dict[tuple[str, int], torch.Tensor] = {}
    for record in records:
        for key, tensor in getattr(record.steps[step], kind).items():
            name = key.removesuffix(" (copy)")
            place = (name, record.coordinates[0])
            assert place not in shards or torch.equal(shards[place], tensor), f"{kind} of {key} differ between ranks at step {step}"
            shards[place] = tensor
    splits = {name: dim for record in records for name, dim in record.splits.items()}
    sizes = {name: size for record in records for name, size in record.sizes.items()}
    tensor_size = 1 + max(record.coordinates[0] for record in records)
    for name in dict.fromkeys(name for name, _ in shards):
        dim = splits[name]
        parts = [shards[name, rank] for rank in range(tensor_size)]
        if dim is None:
            assert all(torch.equal(part, parts[0]) for part in parts), (
                f"{kind} of {name} differ between tensor-parallel ranks at step {step}"
            )
            full[name] = parts[0]
        else:
            whole = torch.cat(parts, dim)
            full[name] = whole.narrow(dim, 0, sizes[name][dim])
            padding = whole.narrow(dim, sizes[name][dim], whole.shape[dim] - sizes[name][dim])
            assert not padding.any(), f"{kind} of the padding of {name} are not zero"
    return full
