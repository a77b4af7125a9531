"""What lines for people are put together with."""


def counted(number: int, what: str) -> str:
    """Such as "1 start" and "2 starts"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """A stranger's text without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
