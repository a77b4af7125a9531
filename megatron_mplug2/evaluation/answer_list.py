"""A closed list of answers to choose among: a text file with one on each line."""

from dataclasses import dataclass
from pathlib import Path

from megatron_mplug2.data.line_list import plain as plain
from megatron_mplug2.data.line_list import read_list


@dataclass(frozen=True, kw_only=True)
class AnswerList:
    path: Path
    answers: tuple[str, ...]
    """Lower-case, as what the tokenizer gives back; each once, in the order of the file."""

    def __contains__(self, answer: object) -> bool:
        return isinstance(answer, str) and plain(answer) in self.answers


def read_answers(path: Path) -> AnswerList:
    """Raises UserError for a file that cannot be read, an empty line, an answer that is there twice, and fewer than two answers."""
    return AnswerList(path=path, answers=read_list(path, "answer", "answers"))
