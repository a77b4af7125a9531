"""VQA accuracy where several people answered, as the official evaluation counts it (Agrawal et al., arXiv 1505.00468; VQA v2's script).

An answer is fully right if at least three of the others gave it; the mean is over leaving out each person in turn. Answers are compared
after a normalisation, with the quirks of the script: what is not as one would write it says so.
"""

import re
from collections.abc import Sequence

ENOUGH = 3
"""People who must have said the same."""

_COUNTED = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(number) for number, word in enumerate(_COUNTED.split())} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")  # meant to look behind for a digit too, the script does not: "2." loses its period
_COMMA_IN_NUMBER = re.compile(r"\d,\d")

_CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's how'd how'll "
    "how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't "
    "she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's "
    "something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas "
    "wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've "
    "why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
)
"""Those that the script knows. What people mean by "its", "were" or "well" it cannot know, so these stay."""


def _without_one_apostrophe() -> dict[str, str]:
    written: dict[str, str] = {}
    for right in _CONTRACTIONS.split():
        places = [place for place, letter in enumerate(right) if letter == "'"]
        written |= {right[:place] + right[place + 1 :]: right for place in places}
    return written | {"somebody'd": "somebodyd"}  # the other way round in the script


_MENDED = _without_one_apostrophe()


def vqa_accuracy(said: str, answers: Sequence[str]) -> float:
    """0 to 100, of what people answered (ten in VQAv2; any number but none).

    Where all gave the same answer the script compares without normalisation.
    """
    said, told = _one_line(said), [_one_line(answer) for answer in answers]
    if len(set(told)) > 1:
        said, told = normalised(said), [normalised(answer) for answer in told]
    agree = sum(answer == said for answer in told)
    shares = [min(1.0, (agree - (answer == said)) / ENOUGH) for answer in told]
    return 100 * sum(shares) / len(shares)


def normalised(answer: str) -> str:
    """Lower case, without articles and most punctuation, numbers up to ten as digits, apostrophes put back."""
    words = (_NUMBERS.get(word, word) for word in _without_punctuation(answer).lower().split())
    return " ".join(_MENDED.get(word, word) for word in words if word not in _ARTICLES)


def _without_punctuation(text: str) -> str:
    """A mark beside a space goes, also everywhere else in the text; another becomes a space, unless there is a number such as 1,000."""
    found, number = text, _COMMA_IN_NUMBER.search(text) is not None
    for mark in _PUNCTUATION:
        goes = number or f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if goes else " ")
    return _PERIOD.sub("", found)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
