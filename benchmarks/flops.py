"""Operations of the model by its formulas against torch's own counter, by task and module, forward and backward.

    python -m benchmarks.flops

Real units on meta tensors, which have sizes and no contents: large takes seconds. Each unit runs by itself on what the ones before it
wrote, and its backward from what it wrote and the losses that it added. Attention runs as plain matrix products, since the counter does not
know all of the fused kernels. `tests/models/test_flops.py` holds every unit's forward pass to its formula, on a small model with contents.
"""

import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.flop_counter import flop_counter
from benchmarks.record import write
from benchmarks.step_cases import StepCase, batch_of, config_of
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import Precision
from megatron_mplug2.data.batch import IGNORED, Batch, TextBatch, moved
from megatron_mplug2.models.chain import Streams, grown_before
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.flops import unit_flops
from megatron_mplug2.models.head_units import MaskedLMUnit
from megatron_mplug2.models.microbatch import ContrastShare, Microbatch
from megatron_mplug2.models.mplug2 import Stage, run_chain
from megatron_mplug2.models.shapes import batch_shape
from megatron_mplug2.models.workload import backward_parts
from megatron_mplug2.objectives.result import Objective
from megatron_mplug2.parallel.dropout import KeyedDropout
from megatron_mplug2.parallel.topology import StageRoles, Topology, make_topology

META, CPU = torch.device("meta"), torch.device("cpu")
"""The second for the one unit that looks at what is asked of it: the MLM head, whose rows are those of masked tokens."""
SAMPLES = 8
CASES = tuple(StepCase(model=model, task=task, samples=SAMPLES, frames=8) for model in ("tiny", "base", "large") for task in Task)


@dataclass(frozen=True)
class Count:
    """Operations of a pass."""

    formula: int = 0
    torch: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.formula + other.formula, self.torch + other.torch)

    @property
    def tree(self) -> dict[str, Any]:
        return asdict(self) | {"torch_over_formula": round(self.torch / self.formula, 5) if self.formula else None}


@dataclass(frozen=True, kw_only=True)
class Passes:
    forward: Count = Count()
    backward: Count = Count()

    def __add__(self, other: "Passes") -> "Passes":
        return Passes(forward=self.forward + other.forward, backward=self.backward + other.backward)


def main() -> None:
    figures: dict[str, Any] = {}
    print(f"{'':34}{'forward':>28}{'backward':>28}\n{'':34}{'GFLOP':>14}{'torch/formula':>14}{'GFLOP':>14}{'torch/formula':>14}")
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        topology = make_topology(LayoutConfig(), StageRoles(ties=((0, 0), (0, 0))))
        for case in CASES:
            config = config_of(case, Path(folder), Precision.FP32)
            modules = by_module(counted(config, case.task, topology))
            figures[f"{case.model}_{case.task}"] = {
                module: {way: count.tree for way, count in (("forward", found.forward), ("backward", found.backward))}
                for module, found in modules.items()
            }
            for module, found in modules.items():
                print(f"{case.model:7}{case.task:12}{module:15}{_columns(found.forward)}{_columns(found.backward)}", flush=True)
        dist.destroy_process_group()
    print(f"written to {write('flops', 'mplug2 bench flops', {'samples': SAMPLES, 'cases': [asdict(case) for case in CASES]}, figures)}")


def _columns(count: Count) -> str:
    ratio = f"{count.torch / count.formula:.4f}" if count.formula else "-"
    return f"{count.formula / 1e9:14,.2f}{ratio:>14}"


def by_module(units: dict[str, Passes]) -> dict[str, Passes]:
    """Summed over the units of each kind, and over all."""
    found: dict[str, Passes] = defaultdict(Passes)
    for name, passes in units.items():
        found[name.split(".")[0]] += passes
    return dict(found) | {"all": sum(units.values(), Passes())}


def counted(config: RunConfig, task: Task, topology: Topology) -> dict[str, Passes]:
    """By the name of each unit that is not idle in `task`. One pass over the microbatch is the whole of it: VLC's gradient to the features
    comes from the solver, whose similarities are the step's, not the model's."""
    context = ModelContext(config=config.model, topology=topology, dropout=KeyedDropout(0, topology))
    units = run_chain(config)
    stage = Stage(units, context).to(META)
    micro = _microbatch(config, task, context)
    parts = backward_parts(config, task)
    streams: Streams = {}
    found = {}
    for unit, grown in zip(units, grown_before(units, task, ()), strict=False):  # it goes on to after the last
        flow = unit.flow(task)
        if flow.idle:
            continue
        place = CPU if isinstance(unit, MaskedLMUnit) else META
        inputs = {name: _at(place, streams[name]).requires_grad_(name in grown) for name in flow.reads}
        module = stage.block(unit.name).to_empty(device=place)
        with flop_counter() as counter, sdpa_kernel(SDPBackend.MATH):
            written = unit.run(module, inputs, micro)
            forward = counter.get_total_flops()
            _backward(written, micro)
        formula = unit_flops(unit, micro.shape, config)
        backward = Count(formula * parts[unit.name], counter.get_total_flops() - forward)
        found[unit.name] = Passes(forward=Count(formula, forward), backward=backward)
        streams |= {name: _at(META, stream) for name, stream in written.items()}
    return found


def _at(place: torch.device, stream: torch.Tensor) -> torch.Tensor:
    """Without its history; contents are anything."""
    return torch.empty_like(stream, device=place, requires_grad=False)


def _backward(written: Streams, micro: Microbatch) -> None:
    """From everything that the unit made."""
    made = [*written.values(), *micro.losses, *(micro.features or ())]
    micro.losses.clear()
    micro.features = None
    ends = [tensor for tensor in made if tensor.requires_grad]
    if ends:
        torch.autograd.backward(ends, [torch.ones_like(tensor) for tensor in ends])


def _microbatch(config: RunConfig, task: Task, context: ModelContext) -> Microbatch:
    phase, partner = config.schedule[0], torch.arange(SAMPLES, device=META).flip(0)
    return Microbatch(
        batch=_expected(batch_of(config), config),
        step=0,
        index=0,
        objectives=config.objectives,
        divisors=dict.fromkeys(Objective, torch.tensor(1.0)),
        sequence=context.sequence,
        shape=batch_shape(config, task, samples=SAMPLES, frames=phase.frames, resolution=phase.resolution),
        features_only=True,
        contrast=ContrastShare(image_for_text=partner, text_for_image=partner),
    )


def _expected(batch: Batch, config: RunConfig) -> Batch:
    """With exactly the expected number of masked tokens, whose labels alone have contents."""
    sizes = moved(batch, META)
    if not isinstance(batch, TextBatch) or not isinstance(sizes, TextBatch):
        return sizes
    labels = torch.full_like(batch.labels, IGNORED)
    labels.view(-1)[: round(labels.numel() * config.objectives.mlm.probability)] = 7
    return replace(sizes, labels=labels)


if __name__ == "__main__":
    main()
