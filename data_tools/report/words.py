"""The most frequent words of texts, in bounded memory."""

import re
from collections import Counter

_MOST_DISTINCT = 200_000
"""Words that are counted at once. When there are more, the rarest are forgotten."""
_READ = 10_000
"""Characters of a text that are looked at."""
_LONGEST = 40
"""Characters of a word that are kept."""
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")

_STOP_WORDS = """
a about after all also an and any are as at be because been before being between both but by can could did do does down each for from had
has have he her here him his how i if in into is it its just may me more most my no not of off on one only or other our out over she so
some such than that the their them then there these they this those through to too two under up very was we were what when where which
while who will with would you your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


class WordCount:
    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._forgotten = 0

    def add(self, text: str) -> None:
        self._counts.update(word[:_LONGEST] for word in _WORD.findall(text[:_READ].lower()))
        while len(self._counts) > _MOST_DISTINCT:
            self._forgotten += 1
            self._counts = Counter({word: count for word, count in self._counts.items() if count > self._forgotten})

    def top(self, most: int, *, stop_words: bool) -> list[tuple[str, int]]:
        """Stop words alone, or all others, the most frequent first and equals in the order of the alphabet."""
        chosen = [(word, count) for word, count in self._counts.items() if (word in STOP_WORDS) is stop_words]
        return sorted(chosen, key=lambda one: (-one[1], one[0]))[:most]
