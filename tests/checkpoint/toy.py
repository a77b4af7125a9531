"""A small model of Megatron-Core's layers on any layout, whose gradients are a pure function of weight and step.

Every number is trained by itself, and averages go over powers of two of equal numbers: any layout must come to the same bits.
"""

import zlib
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer, get_standard_config_overrides
from megatron.core.optimizer.optimizer_config import ParamKey
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import nn

from megatron_mplug2.checkpoint.contents import pieces_to_save
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.training import Precision
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.parallel import device
from megatron_mplug2.parallel.topology import StageRoles, Topology, make_topology

VOCAB, PADDED, HIDDEN, FFN = 11, 16, 8, 12
TIED = "embedding.weight"
UNTOUCHED = "taps"
"""A weight that gets no gradient, but weight decay and a count of updates as all others."""
FROZEN = "frozen"
"""A weight that the optimizer doesn't know."""
LR, FAST_LR, WEIGHT_DECAY = 0.01, 0.05, 0.1


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a toy is trained."""

    layout: LayoutConfig = field(default_factory=LayoutConfig)
    precision: Precision = Precision.FP32
    sgd: bool = False
    """Instead of Adam; without ZeRO-1, for which Megatron-Core refuses it."""
    overlap: bool = False
    """Reduce gradients and gather parameters during backward and forward."""
    hidden: int = HIDDEN
    extra_weight: bool = False
    start: str = "initial"
    """Seed of the initial weights."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A copy of a piece that a rank would save."""

    full_size: tuple[int, ...]
    place: tuple[slice, ...]
    values: torch.Tensor


class Toy:
    """One rank's stage, its optimizer, and the weights' canonical values."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.topology = make_topology(setup.layout, StageRoles(ties=((0, setup.layout.pipeline - 1),)))
        self.core = _core_config(setup)
        self.module = _Stage(self.core, setup, self.topology)
        self.weights = self.module.weights(self.topology)
        for weight in self.weights:
            weight.load_full(full_value(weight, setup.start), self.topology)
        if setup.precision is Precision.BF16:
            for name, param in self.module.named_parameters():
                if name != "temperature":  # mixed precision in one group
                    param.data = param.data.bfloat16()

    @cached_property
    def ddp(self) -> DistributedDataParallel:
        zero1, overlap = self.setup.layout.zero1, self.setup.overlap
        config = DistributedDataParallelConfig(
            grad_reduce_in_fp32=True,
            use_distributed_optimizer=zero1,
            overlap_param_gather=overlap and zero1,
            overlap_grad_reduce=overlap,
        )
        config.bucket_size = 100  # elements: several buckets, and parameters that cross the ranks' ranges
        with device.megatron_runtime(), torch.enable_grad():  # its hooks hang on the graph
            return DistributedDataParallel(self.core, config, self.module, pg_collection=self.topology.groups)

    @cached_property
    def optimizer(self) -> MegatronOptimizer:
        zero1 = self.setup.layout.zero1
        config = OptimizerConfig(
            optimizer="sgd" if self.setup.sgd else "adam",
            lr=LR,
            weight_decay=WEIGHT_DECAY,
            clip_grad=0.0,
            bf16=self.setup.precision is Precision.BF16,
            params_dtype=torch.bfloat16 if self.setup.precision is Precision.BF16 else torch.float32,
            use_distributed_optimizer=zero1,
            overlap_param_gather=self.setup.overlap and zero1,
        )
        groups = {**get_standard_config_overrides(config), ParamKey(name="*second.weight"): {"max_lr": FAST_LR}}
        chunks = [self.ddp]
        with device.megatron_runtime():
            return get_megatron_optimizer(config, chunks, groups, use_gloo_process_groups=False, pg_collection=self.topology.groups)

    @torch.no_grad()
    def train(self, first: int, count: int) -> list[float]:
        """Goes `count` steps from step `first`, and returns the loss before each."""
        return [self._step(step) for step in range(first, first + count)]

    @torch.no_grad()
    def canonical(self) -> dict[str, torch.Tensor]:
        """Full, unpadded parameters of the stage, the same on all its ranks; asserts that data-parallel ranks agree."""
        if self.setup.overlap and self.setup.layout.zero1:
            self.ddp.start_param_sync(force_sync=True)
        return {weight.name: self._whole(weight) for weight in self.weights}

    def held(self) -> list[tuple[str, Box]]:
        """Copies of all that this rank would save."""
        return [
            (
                piece.key,
                Box(
                    full_size=piece.full_size,
                    place=tuple(slice(at, at + n) for at, n in zip(piece.offsets, piece.tensor.shape, strict=True)),
                    values=piece.tensor.detach().float().clone(),
                ),
            )
            for piece in pieces_to_save(self.weights, self.optimizer, self.topology)
        ]

    def _step(self, step: int) -> float:
        self.ddp.zero_grad_buffer()
        self.optimizer.zero_grad()
        loss = self._loss(step)
        for weight in self.weights:
            if weight.name not in (UNTOUCHED, FROZEN):
                own = weight.shard_of(full_value(weight, f"gradient {step}"), self.topology)
                weight.param.main_grad.copy_(own + 0.1 * weight.param)  # type: ignore[attr-defined]
        for group in self.optimizer.param_groups:
            group.update(lr=group["max_lr"] / (1 + step), weight_decay=WEIGHT_DECAY * group["wd_mult"])
        with device.megatron_runtime():
            self._reduce()
            self.optimizer.step()
        return loss

    def _loss(self, step: int) -> float:
        """What the gradients are of."""
        canonical = self.canonical()
        own = [weight for weight in self.weights if weight.saves and weight.name not in (UNTOUCHED, FROZEN)]
        terms = [(full_value(weight, f"gradient {step}") + 0.05 * canonical[weight.name]) * canonical[weight.name] for weight in own]
        loss = torch.stack([term.double().sum() for term in terms]).sum()
        dist.all_reduce(loss, group=self.topology.groups.pp)
        return loss.item()

    def _reduce(self) -> None:
        if self.setup.overlap:  # started by backward otherwise
            self.ddp.start_grad_sync()
        self.ddp.finish_grad_sync()

    def _whole(self, weight: Weight) -> torch.Tensor:
        block = weight.param.detach().float()
        for other in _gathered(block, self.topology.data_group):
            assert torch.equal(block, other), f"data-parallel ranks differ in {weight.name}"
        if weight.partition_dim is None:
            return block.clone()
        whole = torch.cat(_gathered(block, self.topology.tensor_group), weight.partition_dim)
        canonical = whole[: weight.full_size[0]] if weight.partition_dim == 0 else whole
        assert not whole[canonical.shape[0] :].any(), f"padding of {weight.name} isn't zero"
        return canonical


def full_value(weight: Weight, what: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{weight.name} {what}".encode()))
    return torch.randn(weight.full_size, generator=generator)


def _gathered(tensor: torch.Tensor, group: dist.ProcessGroup) -> list[torch.Tensor]:
    tensors = [torch.empty_like(tensor) for _ in range(group.size())]
    dist.all_gather(tensors, tensor.contiguous(), group=group)
    return tensors


class _Stage(nn.Module):
    """Stage 0: embedding and a column-parallel layer; last stage: a row-parallel layer, norm, temperature and the tied head."""

    def __init__(self, core: TransformerConfig, setup: Setup, topology: Topology) -> None:
        super().__init__()
        common = {"config": core, "init_method": nn.init.zeros_, "tp_group": topology.tensor_group}
        if topology.pipeline_rank == 0:
            self.embedding = VocabParallelEmbedding(PADDED, setup.hidden, **common)
            self.first = ColumnParallelLinear(setup.hidden, FFN, bias=True, **common)
            self.frozen = nn.Parameter(torch.zeros(6), requires_grad=False)
        if topology.last_stage:
            row = {"bias": True, "input_is_parallel": True, "skip_bias_add": False}
            self.second = RowParallelLinear(FFN, setup.hidden, **row, **common)
            self.norm = nn.LayerNorm(setup.hidden)
            self.taps = nn.Parameter(torch.zeros(4, 3, 5))
            self.temperature = nn.Parameter(torch.zeros(()))
            if topology.pipeline_rank > 0:
                self.head = VocabParallelEmbedding(PADDED, setup.hidden, **common)
            if setup.extra_weight:
                self.extra = nn.Parameter(torch.zeros(3))

    def weights(self, topology: Topology) -> list[Weight]:
        dims = {"embedding.weight": 0, "head.weight": 0, "first.weight": 0, "first.bias": 0, "second.weight": 1}
        weights = []
        for name, param in self.named_parameters():
            size = list(param.shape)
            dim = dims.get(name)
            if dim is not None:
                size[dim] *= topology.tensor_size
            if name in ("embedding.weight", "head.weight"):
                size[0] = VOCAB
            canonical = TIED if name == "head.weight" else name
            saves = name != "head.weight"
            weights.append(Weight(name=canonical, param=param, partition_dim=dim, full_size=tuple(size), saves=saves))
        return weights


def _core_config(setup: Setup) -> TransformerConfig:
    return TransformerConfig(
        num_layers=1,
        hidden_size=setup.hidden,
        num_attention_heads=4,
        use_cpu_initialization=True,
        perform_initialization=False,
        tensor_model_parallel_size=setup.layout.tensor,
        pipeline_model_parallel_size=setup.layout.pipeline,
        pipeline_dtype=torch.float32,
        bf16=setup.precision is Precision.BF16,
    )
