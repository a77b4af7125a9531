"""Which keys may change when a run goes on from its checkpoint.

The promise is that N steps equal k steps, a stop, and a resume of N-k steps. A key may change where it does not decide what a step
computes: that holds for everything in CHANGEABLE, up to the order of floating-point sums, and with the exceptions that it names.
Another training.precision rounds otherwise from there on. Dropout's masks are keyed by seed, step, microbatch and block, and where
tensor parallelism splits a tensor by the rank too, so another training.microbatch, layout.tensor or layout.sequence_parallel draws
other masks. Without dropout the step is the same.
Every other key (model, objectives, schedule, optimizer, seed, lengths, augmentation, global batch) is fixed. So
objectives.vlc.negatives is, both ways: a queue and averaged weights are neither left behind nor begun in the middle of a run. And so is
training.frozen: there is optimizer state of what was trained alone. Another run begins with these weights by initialise_from.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import UserError

CHANGEABLE: Mapping[str, str] = {
    "name": "a label",
    "run_dir": "the folder may have been moved",
    "layout.*": "weights, optimizer state and the order of samples do not depend on it; dropout, if on: see above",
    "training.engine": "both keep weights and optimizer state under the same names in the same form",
    "deepspeed.*": "which rank holds what; layout's reasons",
    "initialise_from": "read at the beginning of a run only",
    "initialise_from.*": "as above",
    "training.precision": "weights and optimizer state are stored in fp32; the steps to come compute in the new precision",
    "training.microbatch": "losses are normalised by counts over the global batch; dropout, if on: see above",
    "training.recompute": "a recompute replays the same forward pass, dropout too",
    "training.threads": "speed, and the order of floating-point sums",
    "training.on_bad_step": "what follows a bad step; what a good one computes does not depend on it",
    "training.bad_step_limit": "as above",
    "training.spike_factor": "as above",
    "training.hang_timeout_s": "when a run that stands still is ended",
    "training.peak_tflops": "what is written, not what is trained",
    "training.deterministic": "the order of floating-point sums only",
    "training.log_every": "what is written, not what is trained",
    "training.validate_every": "validation leaves weights, data position and random state as they are",
    "training.validation_batches": "as above",
    "training.checkpoint_every": "what is written, not what is trained",
    "training.keep_checkpoints": "as above",
    "training.keep_every": "as above",
    "training.async_save": "when it is written, not what",
    "downstream.best": "which checkpoint stays and when the run ends, not what a step computes",
    "downstream.best.*": "as above",
    "downstream.classes.*": "the file may have been moved, and its classes are known by their words; the rest is read by evaluations alone",
    "objectives.vlc.chunk": "how many columns of the same similarity matrix live at once",
    "data.vocab": "the file may have been moved: its fingerprint in the checkpoint guards what is in it",
    "data.train.*": "folders may have been moved: the checkpoint's data state guards what is in them, weights and repeats",
    "data.validation.*": "never trained on",
    "data.test.*": "never trained on",
    "data.cache.*": "where bytes are kept, not which bytes",
    "data.staging": "as above",
    "data.workers": "the order of samples and their augmentation do not depend on who decodes them",
    "data.prefetch": "as above",
    "data.sample_timeout_s": "when a sample that hangs is given up; which ones were is written down, and goes on",
    "data.bad_sample_limit": "decides when a run gives up, not what it computes",
}
"""Dotted keys (`*` stands for all below) with the reason why each may change."""

ABSENT = "absent"


def check_resume(old: RunConfig, new: RunConfig) -> None:
    """Raises UserError with the first key that differs between checkpoint and run and may not, both values, and the other such keys."""
    before, after = _leaves(old.model_dump(mode="json"), ""), _leaves(new.model_dump(mode="json"), "")
    differing = [
        key for key in dict.fromkeys([*before, *after]) if before.get(key, ABSENT) != after.get(key, ABSENT) and not _may_change(key)
    ]
    if differing:
        first, *others = differing
        values = f"{first}: {before.get(first, ABSENT)} in the checkpoint, {after.get(first, ABSENT)} now"
        more = f" (so do {', '.join(others)})" if others else ""
        raise UserError(f"cannot resume in {new.run_dir}: {values}; it may not change on a resume{more}")


def _may_change(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in CHANGEABLE)


def _leaves(node: Any, place: str) -> dict[str, Any]:
    """Dotted key -> value of everything below a node."""
    if isinstance(node, dict):
        children = node.items()
    elif isinstance(node, list) and any(isinstance(entry, dict) for entry in node):
        children = {str(index): entry for index, entry in enumerate(node)}.items()
    else:
        return {place: node}
    return {key: leaf for name, child in children for key, leaf in _leaves(child, f"{place}.{name}" if place else name).items()}
