"""Exact match, as the released code counts the answers of video questions."""


def same(said: str, truth: str) -> bool:
    """After strip, and nothing else [CODE]. The tokenizer that an answer went through lower-cases, so case does not count."""
    return said.strip() == truth.strip().lower()
