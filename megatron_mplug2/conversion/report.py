"""The table of a conversion: what was used, ignored and missing, with numbered names drawn together."""

import re
from collections import Counter

from megatron_mplug2.conversion.released import Report


def table(report: Report) -> list[str]:
    """A line for each kind with its count, and under it a line for each pattern of names."""
    lines = []
    for kind, names in (("used", report.used), ("ignored", report.ignored), ("missing", report.missing)):
        lines.append(f"{kind}: {len(names)}")
        patterns = Counter(re.sub(r"\.\d+\.", ".*.", name) for name in names)
        lines += [f"  {pattern}  {f'x {count}' if count > 1 else ''}".rstrip() for pattern, count in patterns.items()]
    return lines
