"""A process's part of a stage that several share, such as the tasks of a SLURM array."""

import re
from dataclasses import dataclass

from megatron_mplug2.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Part:
    """Number `index` (from 1) of `count` parts: every `count`-th piece of the stage's work."""

    index: int = 1
    count: int = 1

    @staticmethod
    def parse(text: str) -> "Part":
        """Of "2/8". Raises UserError for what is no such part."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UserError(f"--part {text}: write i/n with i from 1 to n, such as 2/8")
        return Part(index=int(found[1]), count=int(found[2]))

    def has(self, number: int) -> bool:
        """Whether piece `number`, from 0, belongs to this part."""
        return number % self.count == self.index - 1

    @property
    def whole(self) -> bool:
        return self.count == 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"
