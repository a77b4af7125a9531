"""HTML from texts that nobody has checked."""

import html
import unicodedata
from collections.abc import Iterable, Sequence

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn"}
"""Categories of characters that show nothing, or turn the direction of what follows them."""


def shown(text: object, most: int = 200) -> str:
    """At most `most` characters of a text, escaped; what cannot be seen becomes a replacement mark."""
    whole = str(text)
    return html.escape(_seen(" ".join(whole[:most].split())) + ("…" if len(whole) > most else ""))


def apart(text: object, most: int = 200) -> str:
    """As `shown`, of a text whose direction of writing turns nothing around it."""
    return f"<bdi>{shown(text, most)}</bdi>"


def verbatim(text: str) -> str:
    """All of a text with its lines, escaped, for a `<pre>`."""
    return "\n".join(html.escape(_seen(line)) for line in text.splitlines())


def _seen(text: str) -> str:
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(character) in _HIDDEN else character for character in text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are markup already; numbers stand to the right by their class."""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    titles = "".join(f"<th>{title}</th>" for title in head)
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def amount(size: float) -> str:
    """Of bytes."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    raise AssertionError
