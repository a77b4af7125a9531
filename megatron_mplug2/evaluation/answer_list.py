"""A closed list of answers to choose among: a text file with one on each line."""

from dataclasses import dataclass
from pathlib import Path

from megatron_mplug2.errors import UserError


@dataclass(frozen=True, kw_only=True)
class AnswerList:
    path: Path
    answers: tuple[str, ...]
    """Lower-case, as what the tokenizer gives back; each once, in the order of the file."""

    def __contains__(self, answer: object) -> bool:
        return isinstance(answer, str) and plain(answer) in self.answers


def plain(answer: str) -> str:
    return answer.strip().lower()


def read_answers(path: Path) -> AnswerList:
    """Raises UserError for a file that cannot be read, an empty line, an answer that is there twice, and fewer than two answers."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"cannot read the answers in {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 (byte {error.start}): write one answer on each line") from None
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        answer = plain(line)
        if not answer:
            raise UserError(f"{path}, line {number}: empty; write one answer on each line")
        if answer in found:
            raise UserError(f"{path}, line {number}: {answer!r} is there already, on line {found[answer]}; leave one of them")
        found[answer] = number
    if len(found) < 2:
        raise UserError(f"{path} has {len(found)} answers: there is nothing to choose; write one answer on each line")
    return AnswerList(path=path, answers=tuple(found))
