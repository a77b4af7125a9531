"""The signal by which a cluster asks a run to save and stop: SLURM's `--signal=USR2@120`, some time before a limit or a preemption."""

import signal

STOP_SIGNAL = signal.SIGUSR2


def hold_back() -> None:
    """Keeps the signal pending until `training.interrupt` takes it, where it would end a process that is still importing.

    To be called before threads are started: they inherit it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {STOP_SIGNAL})
