"""What a command says that refuses."""

from typer.testing import Result

from megatron_mplug2.errors import UserError


def line_of(done: Result) -> str:
    """The one line that it ended with."""
    assert isinstance(done.exception, UserError) and "\n" not in str(done.exception), done.exception
    return str(done.exception)
