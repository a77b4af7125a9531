"""Stands for `python -m megatron_mplug2.cli` in a job: the command, with a plan's faults in the job's starts, and a record of what is read.

python faulty_rank.py PLAN -m megatron_mplug2.cli pretrain CONFIG
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from launchers import local
from megatron_mplug2 import cli
from megatron_mplug2.training import step as step_module
from megatron_mplug2.training.engine import Engine
from megatron_mplug2.training.step import StepWork, Told

FIRST_AT, SECOND_AT = 7, 8
"""Steps in which the faults of the first and the second start come."""
DYING = "dying"
"""File in the run folder, in which a rank names its node and then waits for its death."""
PATIENCE_S = 240


def kill(engine: Engine) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def reach_the_time_limit(engine: Engine) -> None:
    """Goes on when the signal is there: on a busy machine it comes a step later else."""
    with signal_awaited():
        subprocess.run(["scancel", "--signal=USR2", os.environ["SLURM_JOB_ID"]], check=True, timeout=60)


def be_preempted(engine: Engine) -> None:
    """Submits an urgent job for all nodes, and goes on when the signal is there that it brings."""
    environ = {name: os.environ[name] for name in ("PATH", "SLURM_CONF")}
    urgent = ["sbatch", "--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    with signal_awaited():
        subprocess.run(urgent, env=environ, check=True, timeout=60)


def wait_for_the_time_limit(engine: Engine) -> None:
    with signal_awaited():
        pass


@contextmanager
def signal_awaited() -> Iterator[None]:
    """Ends when the signal to stop has come since its beginning, to whichever thread, and was handled as ever."""
    handlers, come = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}, []

    def handled(number: int, frame: FrameType | None) -> None:
        come.append(number)
        handler = handlers[signal.Signals(number)]
        assert callable(handler)
        handler(number, frame)

    for number in handlers:
        signal.signal(number, handled)
    yield
    deadline = time.monotonic() + PATIENCE_S
    while not come:
        assert time.monotonic() < deadline, "no signal"
        time.sleep(0.05)


def die_with_the_node(engine: Engine) -> None:
    (engine.config.run_dir / DYING).write_text(os.environ["SLURMD_NODENAME"])
    signal.alarm(PATIENCE_S)
    signal.pause()


def plans() -> dict[str, dict[int, tuple[int, int, Callable[[Engine], None]]]]:
    """By name: start -> step, rank and fault."""
    from tests.training.faults import break_off

    return {
        "killed-then-limited": {0: (FIRST_AT, 3, kill), 1: (SECOND_AT, 0, reach_the_time_limit)},
        "broken-then-preempted": {0: (FIRST_AT, 1, break_off), 1: (SECOND_AT, 0, be_preempted)},
        "limited": {0: (FIRST_AT, 0, reach_the_time_limit)},
        "really-limited": {0: (FIRST_AT, 0, wait_for_the_time_limit)},
        "node-dies": {0: (FIRST_AT, 1, die_with_the_node)},
        "first-node-dies": {0: (FIRST_AT, 0, die_with_the_node)},
        "undisturbed": {},
    }


@contextmanager
def recording(start: str) -> Iterator[None]:
    """Writes the ids of a step's samples, before what may end it."""
    before = step_module.backward

    def backward(engine: Engine, work: StepWork) -> Told:
        topology = engine.topology
        if topology.tensor_rank == 0 and topology.pipeline_rank == 0:
            folder = engine.config.run_dir / "samples"
            folder.mkdir(exist_ok=True)
            numbers = range(topology.data_rank, engine.config.training.global_batch, topology.data_size)
            batches = {number: batch.sample_ids.tolist() for number, batch in zip(numbers, work.batches, strict=False)}
            with (folder / f"{start}-{topology.data_rank}.jsonl").open("a") as file:
                file.write(json.dumps({"step": work.step, "start": start, "batches": batches}) + "\n")
        return before(engine, work)

    setattr(step_module, "backward", backward)  # noqa: B010
    try:
        yield
    finally:
        setattr(step_module, "backward", before)  # noqa: B010


def main() -> None:
    assert "/launches/" in str(local.__file__), "the code of the snapshot"
    sys.path.append(str(Path(__file__).parents[2]))
    from tests.training.faults import fault_at

    start = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    plan = plans()[sys.argv[1]]
    with ExitStack() as stack:
        if start in plan:
            stack.enter_context(fault_at(*plan[start]))
        stack.enter_context(recording(f"{os.environ['SLURM_JOB_ID']}.{start}"))
        sys.argv = ["mplug2", *sys.argv[sys.argv.index("megatron_mplug2.cli") + 1 :]]
        cli.main()


if __name__ == "__main__":
    main()
