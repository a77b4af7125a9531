"""What the scores of generated texts share."""

from collections.abc import Sequence


def words(text: str) -> list[str]:
    """Lower-case words of a text; punctuation goes."""
    return "".join(letter if letter.isalnum() or letter == "'" else " " for letter in text.lower()).split()


def share(right: Sequence[bool]) -> float | None:
    """Percentage; None of nothing."""
    return 100 * sum(right) / len(right) if right else None
