"""Where the reference material for tests lies (golden models, real media, a vocabulary); tests that need it are skipped without it."""

import os
from pathlib import Path

import pytest

_place = Path(os.environ.get("MPLUG2_SHARED", Path(__file__).parents[2] / "shared"))
SHARED: Path | None = _place if (_place / "golden").is_dir() else None
needs_shared = pytest.mark.skipif(SHARED is None, reason="no reference material: set MPLUG2_SHARED to its folder")
