"""Files that are whole or not there, and never in the place of another."""

from contextlib import suppress
from pathlib import Path

from megatron_mplug2.errors import UserError


def check_free(out: Path) -> None:
    """Raises UserError where something is there already."""
    try:
        if out.exists():
            raise UserError(f"{out} exists already: choose another name, or delete it first")
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None


def write_fresh(out: Path, content: bytes) -> None:
    """Raises UserError where it cannot be written."""
    partial = out.with_name(f"{out.name}.partial")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.rename(out)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {out}: {error.strerror}") from None
