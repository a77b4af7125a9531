"""Which small corpus `mplug2 data demo` makes; here, so that help is quick."""

from enum import StrEnum


class DemoKind(StrEnum):
    DEMO = "demo"
    """Pictures, clips and documents, for the demo."""
    REFCOCO = "refcoco"
    """Phrases about pictures of two shapes."""
