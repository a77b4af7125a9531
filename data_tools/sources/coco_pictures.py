"""Where COCO's pictures of 2014 and 2015 lie, for the corpora that name them by number."""

from pathlib import Path

from data_tools.sources.base import first_there


def coco_picture(folder: Path, part: str, number: int) -> Path:
    """Of "train2014" and 7: in a folder of its part, or right in `folder`, or under the names of 2017, which are numbers only."""
    name = f"COCO_{part}_{number:012d}.jpg"
    return first_there(folder / part / name, folder / name, folder / f"{number:012d}.jpg")
