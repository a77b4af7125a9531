"""What an evaluation of a family has left in a run's folder."""

import json
from typing import Any

from megatron_mplug2.config.downstream import Family
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.evaluation.evaluate import FamilyNames


def written(config: RunConfig, family: Family, *, trained: bool = False) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Results without what tells of the layout, and predictions; there is a page too, and nothing half-written."""
    names = FamilyNames.of(family, trained=trained)
    results = json.loads((config.run_dir / names.results).read_text())
    assert "</html>" in (config.run_dir / names.page).read_text()
    assert not [path for path in config.run_dir.iterdir() if path.name.startswith(".")]
    del results["config"]
    return results, [json.loads(line) for line in (config.run_dir / names.predictions).read_text().splitlines()]
