"""What a stage of `mplug2 data` wrote: ANNOTATION is its folder, with `listing.json`; --media is not needed.

Samples that an earlier stage left out are passed on as such, so that a last report knows them.
"""

from collections.abc import Iterator
from pathlib import Path

from data_tools.sample import Sample
from data_tools.stages.listing import read_listing


class ListingSource:
    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        return read_listing(annotation)
