"""Folders that are whole or not there: written under a temporary name beside their place, then renamed."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_mplug2.errors import UserError


@contextmanager
def fresh_folder(place: Path) -> Iterator[Path]:
    """Gives an empty folder to fill; becomes `place` when the block ends well and is removed when it raises.

    A killed process leaves `NAME.partial-*` beside the place, which may be deleted. Raises UserError when the place is taken or cannot be
    written.
    """
    try:
        if place.exists():
            raise UserError(f"{place} exists already: choose another folder, or delete this one first")
        place.absolute().parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{place.name}.partial-", dir=place.absolute().parent))
    except OSError as error:
        raise UserError(f"cannot make {place}: {error.strerror}") from None
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp makes a private folder
        partial.rename(place)
    except OSError as error:
        raise UserError(f"cannot write {place}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
