"""Whether a text says nothing."""

import unicodedata


def is_blank(text: str) -> bool:
    """Whether there is nothing but spaces and characters that control or format, as those without width, which tokenizers leave out."""
    return all(one.isspace() or unicodedata.category(one) in ("Cc", "Cf") for one in text)
