"""How a run's layout follows the number of ranks that it gets.

Tensor and pipeline parallelism stay: they decide what fits into a rank's memory. The data-parallel size follows. The global batch stays,
and with it the samples of every step and what a step computes; a microbatch that no longer divides a rank's share of it becomes the
largest smaller one that does, and that keeps VLM's groups whole.
"""

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import UserError


def layout_overrides(run: RunConfig, ranks: int) -> tuple[str, ...]:
    """What is to be set in the config, as `key=value`. Raises UserError where no layout has so many ranks."""
    layout, training = run.layout, run.training
    model = layout.tensor * layout.pipeline
    if ranks % model:
        sizes = f"layout.tensor={layout.tensor} x layout.pipeline={layout.pipeline}"
        raise UserError(f"{ranks} ranks cannot be shared out by {sizes}: choose other --nodes or another layout")
    data = ranks // model
    share, rest = divmod(training.global_batch, data)
    # Where groups matter, a microbatch is a whole number of them already.
    vlm = run.objectives.vlm
    unit = vlm.group if vlm.weight and training.microbatch % vlm.group == 0 else 1
    fitting = [size for size in range(unit, training.microbatch + 1, unit) if share and share % size == 0]
    if rest or not fitting:
        whole = f"microbatches of {unit} samples" if unit > 1 else "samples"
        raise UserError(
            f"training.global_batch={training.global_batch} cannot be shared out to {data} data-parallel ranks in whole {whole}: "
            "choose other --nodes"
        )
    microbatch = () if fitting[-1] == training.microbatch else (f"training.microbatch={fitting[-1]}",)
    return (f"layout.data={data}", *microbatch)
