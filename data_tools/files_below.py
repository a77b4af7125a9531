"""Files in a folder and all below it. A folder that cannot be looked into is told: passed over in silence, its files would be missed by
nobody."""

import os
from collections.abc import Callable
from pathlib import Path

from megatron_mplug2.errors import UserError


def files_below(place: Path, wanted: Callable[[str], bool]) -> list[Path]:
    """Those whose name is wanted, sorted; links to folders are not followed. Raises UserError where a folder cannot be read."""

    def told(error: OSError) -> None:
        if isinstance(error, FileNotFoundError) and error.filename != str(place):
            return  # a writer at work has just taken it away
        if isinstance(error, PermissionError):
            raise unreadable_folder(error)
        raise UserError(f"cannot read {error.filename}: {error.strerror}")

    walk = os.walk(place, onerror=told)
    return sorted(Path(folder) / name for folder, _, names in walk for name in names if wanted(name))


def unreadable_folder(error: OSError) -> UserError:
    return UserError(f"cannot read the folder {error.filename}: {error.strerror}; make it readable, or take it away")


def named(name: str) -> Callable[[str], bool]:
    return lambda other: other == name
