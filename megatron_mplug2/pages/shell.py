"""A page that stands for itself: no script, no other file, nothing from a network; light or dark as its reader likes."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from megatron_mplug2.errors import UserError

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = Path(__file__).with_name("style.css")


def page(title: str, body: Iterable[str], style: str) -> str:
    """The whole page; `title` and `body` are markup, `style` is CSS beside what all pages have."""
    head = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{_STYLE.read_text(encoding='utf-8')}{style}</style></head><body>"
    )
    return "".join((head, f"<h1>{title}</h1>", *body, "</body></html>\n"))


def encoded(text: str) -> bytes:
    """As it goes into a file; what is no character at all becomes a question mark."""
    return text.encode(errors="replace")


def replace_page(out: Path, text: str) -> None:
    """Puts a page in place, whole or not at all, also over an older one. Raises UserError where it cannot be written."""
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(encoded(text))
        unfinished.replace(out)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise UserError(f"cannot write {out}: {error.strerror}") from None
