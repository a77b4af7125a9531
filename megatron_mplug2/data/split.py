"""The parts of a corpus."""

from enum import StrEnum

from megatron_mplug2.config.data import DataConfig, SplitConfig


class Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"

    def folders(self, data: DataConfig) -> SplitConfig:
        folders: SplitConfig = getattr(data, self.value)
        return folders
