"""The list of classes that a corpus has: every label of its samples once, one on each line."""

from pathlib import Path

from data_tools.fresh_file import check_free, write_fresh
from data_tools.progress import track
from data_tools.texts import record_at
from data_tools.verify import stream_folders
from megatron_mplug2.data.line_list import plain
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.errors import UserError


def write_classes(place: Path, out: Path) -> int:
    """Writes the labels in all shards under a folder, in alphabetical order; returns how many there are.

    Raises UserError where `out` is there already, there are no shards or no labels, or a sample cannot be read.
    """
    check_free(out)
    found: set[str] = set()
    for folder in stream_folders(place):
        manifest = Manifest.load(folder)
        for number in track(range(len(manifest)), str(folder), len(manifest)):
            found.add(plain(record_at(manifest, number, folder).label or ""))
    found.discard("")
    if not found:
        raise UserError(f"no sample in {place} has a label: name shards of a corpus with classes, such as imagenet or kinetics")
    write_fresh(out, "".join(f"{name}\n" for name in sorted(found)).encode())
    return len(found)
