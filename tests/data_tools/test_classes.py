"""The list of a corpus's classes, from shards."""

from pathlib import Path

import pytest

from data_tools.classes import write_classes
from data_tools.sources.registry import source
from data_tools.splits import Split
from megatron_mplug2.config.downstream import Family
from megatron_mplug2.data.class_list import read_classes
from megatron_mplug2.errors import UserError
from tests.data.labelled import sample, write_labelled


def test_every_label_once_in_order(tmp_path: Path) -> None:
    family = Family.IMAGE_CLASSIFICATION
    labels = ["Tench, Tinca", "crane", None, "tench, tinca", "apple"]
    write_labelled(tmp_path / "shards/train/image_text", family, [sample(family, number, label) for number, label in enumerate(labels)])
    assert write_classes(tmp_path / "shards", tmp_path / "new/classes.txt") == 3
    assert read_classes(tmp_path / "new/classes.txt").names == ("apple", "crane", "tench, tinca")
    with pytest.raises(UserError, match=r"classes\.txt exists already"):
        write_classes(tmp_path / "shards", tmp_path / "new/classes.txt")


def test_shards_without_labels(tmp_path: Path) -> None:
    family = Family.IMAGE_CLASSIFICATION
    write_labelled(tmp_path / "shards", family, [sample(family, 0, None)])
    with pytest.raises(UserError, match=r"^no sample in .*shards has a label: name shards of a corpus with classes"):
        write_classes(tmp_path / "shards", tmp_path / "classes.txt")
    assert not (tmp_path / "classes.txt").exists()


def test_the_two_cranes_are_told_apart(tmp_path: Path) -> None:
    """The only two synsets of ImageNet's 1,000 whose words are the same."""
    mapping = tmp_path / "LOC_synset_mapping.txt"
    mapping.write_text("n02012849 crane\nn03126707 crane\nn01440764 tench, Tinca tinca\n")
    for synset in ("n02012849", "n03126707", "n01440764"):
        (tmp_path / synset).mkdir()
        (tmp_path / synset / "a.JPEG").touch()
    labels = [one.record.label for one in source("imagenet", Split.TRAIN).samples(mapping, tmp_path)]
    assert labels == ["crane, bird", "crane, machine", "tench, Tinca tinca"]
