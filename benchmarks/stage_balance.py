"""Pipeline stages of the base model: their time by the cost model against their time on this CPU, and what a cut by cost gains.

    python -m benchmarks.stage_balance

At 2 and 4 stages, cut three ways: for the least time of a step (as it is), for the least mean load, and into as many layers each. The
chain is split wherever one of these cuts falls; each piece runs alone, its real modules, forward and backward on streams as they would
arrive, and forward alone for VLC's first pass; a stage's time is the sum of its pieces'. Pieces take turns, and the seconds are the
process's own on one thread, so that whatever else the machine does disturbs them little and all alike. fp32, no dropout (its draws cost a
CPU what they don't cost a GPU), 4 frames a clip.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.noise import noise_batch
from benchmarks.record import write
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.build import build_stage
from megatron_mplug2.models.chain import Streams, alive_at
from megatron_mplug2.models.microbatch import ContrastShare, Microbatch
from megatron_mplug2.models.mplug2 import CONTRAST, Stage, chain
from megatron_mplug2.models.partition import Partition, make_partition
from megatron_mplug2.models.shapes import BatchShape, stream_shape
from megatron_mplug2.models.stage_cuts import Pass, stage_sums, step_time
from megatron_mplug2.models.stage_plan import even_starts, mean_load_starts
from megatron_mplug2.models.workload import feature_pass, step_shares, training_pass
from megatron_mplug2.objectives.result import Objective
from megatron_mplug2.parallel.sequence import SequenceShards
from megatron_mplug2.parallel.topology import StageRoles, Topology, make_topology

CONFIG = Path(__file__).parents[1] / "configs" / "pretrain" / "base.yaml"
OVERRIDES = [
    "training.microbatch=2",
    "training.precision=fp32",
    "training.recompute=none",
    "objectives.vlm.group=2",
    "model.text.dropout=0",
    "model.text.attention_dropout=0",
    "schedule.1.frames=4",
    "layout.data=1",
]
PIPELINES = (2, 4)
ROUNDS, LEAST_ROUNDS, BUDGET_S = 9, 3, 210.0

Cut = tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """One pass over the chain in one kind of step."""

    shape: BatchShape
    weight: float
    """Share of the steps."""
    features_only: bool
    flops: tuple[float, ...]
    """Of each unit."""

    @property
    def name(self) -> str:
        return f"{self.shape.task}{' feature pass' if self.features_only else ''}"


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = load_config(CONFIG, [*OVERRIDES, "layout.pipeline=2"])
    cuts = {stages: _cuts(load_config(CONFIG, [*OVERRIDES, f"layout.pipeline={stages}"])) for stages in PIPELINES}
    work = _work(config)
    borders = tuple(sorted({start for named in cuts.values() for cut in named.values() for start in cut}))
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        seconds = _measure(config, borders, work)
        dist.destroy_process_group()
    figures: dict[str, Any] = {f"pipeline_{stages}": _figures(named, borders, work, seconds) for stages, named in cuts.items()}
    figures["rounds"] = len(seconds[work[0].name][0])
    case = {"config": "configs/pretrain/base.yaml", "set": OVERRIDES, "shares": {one.name: round(one.weight, 3) for one in work}}
    path = write("stage_balance", "python -m benchmarks.stage_balance", case, figures)
    _show(figures)
    print(f"written to {path}")


def _cuts(config: RunConfig) -> dict[str, Cut]:
    partition = make_partition(config)
    return {"least_time": partition.starts, "least_mean_load": mean_load_starts(config), "even_layers": even_starts(partition)}


def _work(config: RunConfig) -> list[Work]:
    found = []
    for shape, share in step_shares(config).items():
        found.append(Work(shape, share, False, training_pass(config, shape)))
        if shape.task is not Task.TEXT:
            found.append(Work(shape, share, True, feature_pass(config, shape)))
    return found


def _measure(config: RunConfig, borders: Cut, work: Sequence[Work]) -> dict[str, list[list[float]]]:
    """Of each pass, of each piece: its seconds in each round."""
    topology = make_topology(config.layout.model_copy(update={"pipeline": 1}), StageRoles(ties=((0, 0), (0, 0))))
    pieces = [_Piece(config, borders, number, topology) for number in range(len(borders))]
    seconds: dict[str, list[list[float]]] = {one.name: [[] for _ in pieces] for one in work}
    begin = time.perf_counter()
    for number in range(-1, ROUNDS):  # the first warms up
        if number >= LEAST_ROUNDS and time.perf_counter() - begin > BUDGET_S:
            break
        for one in work:
            for piece, times in zip(pieces, seconds[one.name], strict=True):
                took = piece.seconds(one)
                if number >= 0:
                    times.append(took)
    return seconds


class _Piece:
    """A slice of the chain with its modules, run as a stage."""

    def __init__(self, config: RunConfig, borders: Cut, number: int, topology: Topology) -> None:
        self._config, self._sequence = config, SequenceShards(topology)
        self._units, self._first = chain(config.model), borders[number]
        partition = Partition(self._units, borders)
        built = build_stage(config, partition, replace(topology, pipeline_rank=number))
        self._stage: Stage = built.stage
        self._last = partition.cut_after(number)

    def seconds(self, work: Work) -> float:
        """0 where all of its units are idle, or lie behind the contrastive head in a pass for its features."""
        units = self._units[self._first : self._last]
        behind = self._first > next(index for index, unit in enumerate(self._units) if unit.name == CONTRAST)
        if all(unit.flow(work.shape.task).idle for unit in units) or (work.features_only and behind):
            return 0.0
        streams, micro = self._streams(work), self._micro(work)
        self._stage.zero_grad(set_to_none=True)
        start = time.process_time()
        with torch.set_grad_enabled(not work.features_only):
            written = self._stage(streams, micro)
            if not work.features_only:
                sent = [written[stream] for stream in alive_at(self._units, self._last, work.shape.task)]
                ends = [tensor for tensor in (*sent, *micro.losses) if tensor.requires_grad]
                torch.autograd.backward(ends, [torch.ones_like(tensor) for tensor in ends])
        return time.process_time() - start

    def _streams(self, work: Work) -> Streams:
        alive = alive_at(self._units, self._first, work.shape.task)
        shapes = {stream: stream_shape(stream, work.shape, self._config.model, self._sequence) for stream in alive}
        return {stream: torch.randn(shape, requires_grad=not work.features_only) for stream, shape in shapes.items()}

    def _micro(self, work: Work) -> Microbatch:
        samples = work.shape.samples
        partner = torch.arange(samples).flip(0)
        known = ContrastShare(image_for_text=partner, text_for_image=partner)

        def solve(vision: torch.Tensor, text: torch.Tensor, log_temperature: torch.Tensor) -> ContrastShare:
            grads = {"vision_grad": vision, "text_grad": text, "log_temperature_grad": torch.zeros(())}
            return replace(known, vision_features=vision, text_features=text, loss=torch.zeros(()), **grads)

        owns = any(unit.name == CONTRAST for unit in self._units[self._first : self._last])
        return Microbatch(
            batch=noise_batch(self._config, work.shape),
            step=0,
            index=0,
            objectives=self._config.objectives,
            divisors=dict.fromkeys(Objective, torch.tensor(float(samples))),
            sequence=self._sequence,
            shape=work.shape,
            features_only=work.features_only,
            contrast=None if owns else known,
            solver=solve,
        )


def _figures(cuts: dict[str, Cut], borders: Cut, work: Sequence[Work], seconds: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Of each cut: stages by pass, predicted as shares of the pass and measured in ms; the step over one with even stages."""
    medians = {one.name: [1000 * statistics.median(times) for times in seconds[one.name]] for one in work}
    predicted = [Pass(one.weight, one.flops) for one in work]
    measured = [Pass(one.weight, tuple(medians[one.name])) for one in work]
    figures: dict[str, Any] = {}
    for name, starts in cuts.items():
        places = tuple(borders.index(start) for start in starts)
        stages = {}
        for one, model, real in zip(work, predicted, measured, strict=True):
            ms = stage_sums(real.costs, places)
            stages[one.name] = {
                "predicted_share": [round(cost / sum(model.costs), 3) for cost in stage_sums(model.costs, starts)],
                "measured_share": [round(cost / sum(ms), 3) for cost in ms],
                "measured_ms": [round(cost, 1) for cost in ms],
            }
        figures[name] = {
            "starts": starts,
            "stages": stages,
            "predicted_step_over_even_stages": round(_pace(predicted, starts), 3),
            "measured_step_over_even_stages": round(_pace(measured, places), 3),
        }
    for kind in ("predicted", "measured"):
        ours, even = (figures[name][f"{kind}_step_over_even_stages"] for name in ("least_time", "even_layers"))
        figures[f"{kind}_gain_over_even_layers"] = round(even / ours - 1, 3)
    return figures


def _pace(passes: Sequence[Pass], starts: Cut) -> float:
    return step_time(passes, starts) * len(starts) / sum(one.weight * sum(one.costs) for one in passes)


def _show(figures: dict[str, Any]) -> None:
    for stages in PIPELINES:
        found = figures[f"pipeline_{stages}"]
        for name in ("least_time", "least_mean_load", "even_layers"):
            cut = found[name]
            said = f"{cut['predicted_step_over_even_stages']:.3f} predicted, {cut['measured_step_over_even_stages']:.3f} measured"
            print(f"{stages} stages, {name:16} {cut['starts']!s:20} a step over one with even stages: {said}")
            for one, shares in cut["stages"].items():
                print(
                    f"    {one:24} predicted {shares['predicted_share']}  measured {shares['measured_share']}  ms {shares['measured_ms']}"
                )
        print(f"  gain over even layers: {found['predicted_gain_over_even_layers']:.1%} / {found['measured_gain_over_even_layers']:.1%}")


if __name__ == "__main__":
    main()
