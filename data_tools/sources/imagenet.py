"""ImageNet: ANNOTATION is `LOC_synset_mapping.txt` for training and `LOC_val_solution.csv` for validation, --media the pictures' folder.

    n01440764 tench, Tinca tinca                                    LOC_synset_mapping.txt

    ImageId,PredictionString                                        LOC_val_solution.csv, with LOC_synset_mapping.txt beside it
    ILSVRC2012_val_00048981,n03995372 85 1 499 272

The class is a synset's words, all of them: some first words name two classes. The two cranes, a bird and a machine, have no other word, and
are told apart by one. In training, the pictures are at DIR/n01440764/*, in
validation at DIR/ILSVRC2012_val_00048981.JPEG. Instead of a file, ANNOTATION may be a folder of folders that are named by classes, each
with its pictures: other corpora of classes have it. --split says what it is.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.sample import MediaPlace, Reason, Sample
from data_tools.sources.base import as_name, as_text, file_in, files_of, folders_in, read_lines, read_rows, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record
from megatron_mplug2.errors import UserError

_NAMES = "LOC_synset_mapping.txt"
_CRANES = {"n02012849": "crane, bird", "n03126707": "crane, machine"}
"""The only two of the 1,000 synsets whose words are the same."""


@dataclass(frozen=True)
class ImagenetSource:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        if annotation.is_dir():
            for folder in folders_in(annotation):
                yield from self._of_class(folder, folder.name, {})
        elif annotation.suffix == ".csv":
            yield from self._validation(annotation, media)
        else:
            for synset, words in _class_names(annotation).items():
                yield from self._of_class(media / synset, words, {"synset": synset})

    def files(self, annotation: Path, media: Path) -> Iterator[Path]:
        """The annotation with the classes' names, or the annotation and the pictures in the folders of classes."""
        if annotation.is_dir():
            folders = folders_in(annotation)
        elif annotation.suffix == ".csv":
            yield from (annotation, annotation.parent / _NAMES)
            return
        else:
            yield annotation
            folders = [media / synset for synset in _class_names(annotation)]
        for folder in folders:
            yield from files_of(folder)

    def _of_class(self, folder: Path, label: str, attributes: dict[str, str]) -> Iterator[Sample]:
        if not folder.is_dir():
            record = Record(label=label, attributes=attributes)
            bare = Sample(split=self.split, stream=Task.IMAGE_TEXT, key=folder.name, media=None, record=record)
            yield bare.without(Reason.MISSING, f"there is no folder {folder}")
            return
        try:
            label.encode()
        except UnicodeEncodeError:
            raise UserError(f"the name of the folder {str(folder)!r} is not UTF-8, so no class can be named by it: rename it") from None
        for file in files_of(folder):
            yield self._sample(file, label, attributes)

    def _validation(self, annotation: Path, media: Path) -> Iterator[Sample]:
        names = _class_names(annotation.parent / _NAMES)
        try:
            for row in read_rows(annotation):
                key = as_text(row["ImageId"], "an ImageId")
                synset = as_text(row["PredictionString"], f"the PredictionString of {key}").split(" ")[0]
                if synset not in names:
                    raise ValueError(f"the synset {synset!r} of {key} is not in {_NAMES}")
                yield self._sample(file_in(media, f"{key}.JPEG"), names[synset], {"synset": synset})
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise wrong_layout(annotation, "imagenet", error) from None

    def _sample(self, file: Path, label: str, attributes: dict[str, str]) -> Sample:
        record = Record(label=label, attributes=attributes)
        return Sample(split=self.split, stream=Task.IMAGE_TEXT, key=file.stem, media=MediaPlace(path=file), record=record)


def _class_names(path: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    try:
        for number, line in enumerate(read_lines(path), 1):
            synset, _, words = line.strip().partition(" ")
            if line.strip():
                if not words:
                    raise ValueError(f"line {number} is not SYNSET WORDS")
                names[as_name(synset)] = _CRANES.get(synset, words)
    except ValueError as error:
        raise wrong_layout(path, "imagenet", error) from None
    return names
