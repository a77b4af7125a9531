"""How a command ends: its exit codes, and the exceptions that end it with one line."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What `mplug2` exits with, for whoever decides whether to start the same command again. A signal is 128 + its number, as in shells."""

    FINISHED = 0
    FAILED = 1
    """A defect, or a fault from outside such as a killed rank: the same command goes on from the last checkpoint."""
    MISTAKE = 2
    """A person's: the same command ends the same way until somebody mends it."""
    BROKEN_DATA = 65
    """The corpus has more bad samples than a run may pass over: the same until it is mended. EX_DATAERR of sysexits.h."""
    BAD_NODE = 69
    """A node cannot do the work, says the check before a job's start: the same command goes on elsewhere. EX_UNAVAILABLE of sysexits.h."""
    HUNG = 75
    """A watchdog ended a stuck run and has said why: the same command goes on. EX_TEMPFAIL of sysexits.h."""
    STOPPED = 85
    """Asked to stop, it saved and ended: the same command goes on from there. HTCondor's default for a job that checkpointed itself."""
    CUT_SHORT = 86
    """Asked to stop, without anything that could be gone on with: the same command begins anew. It ends the same way where it needs more
    than its time limit."""


class UserError(Exception):
    """Says in one line what is wrong, where, and what to do. The command prints it without a traceback."""

    exit_code = ExitCode.MISTAKE


class BrokenDataError(UserError):
    """The corpus cannot be trained on."""

    exit_code = ExitCode.BROKEN_DATA


class CutShortError(UserError):
    """The cluster has asked for an end, of what begins anew the next time."""

    exit_code = ExitCode.CUT_SHORT


class RankError(Exception):
    """A rank of a run failed, by a defect or from outside. Says which rank and its last line."""

    exit_code = ExitCode.FAILED
