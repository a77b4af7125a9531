"""The one exception that is a message to the person at the shell, not a defect of the program."""


class UserError(Exception):
    """Says in one line what is wrong, where, and what to do. The command prints it without a traceback and exits with 2."""


class RankError(Exception):
    """A rank of a run failed, by a defect or from outside. Says which rank and its last line; the command exits with 1."""
