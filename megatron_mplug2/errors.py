"""The exceptions that end a command with one line, and what a stuck run exits with."""


class UserError(Exception):
    """Says in one line what is wrong, where, and what to do. The command prints it without a traceback and exits with 2."""


HUNG = 75
"""Exit status of a rank whose watchdog has ended the run and has said why: EX_TEMPFAIL, since the same command may go on."""


class RankError(Exception):
    """A rank of a run failed, by a defect or from outside. Says which rank and its last line; the command exits with 1."""
