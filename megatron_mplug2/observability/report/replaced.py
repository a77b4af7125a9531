"""Bad samples and why: the ledger, by reason."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from megatron_mplug2.data.substitution import Substitution
from megatron_mplug2.pages.markup import apart, shown, table

MOST_REASONS = 50
_EXAMPLES = 2


def replaced(found: Sequence[Substitution]) -> str:
    """Markup."""
    if not found:
        return "<p>No sample had to be replaced.</p>"
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], list[Substitution]] = defaultdict(list)
    for one in found:
        kind = one.fault, reason_of(one)
        counts[kind] += 1
        if len(examples[kind]) < _EXAMPLES:
            examples[kind].append(one)
    rows = [
        (f"{count:,}", kind[0], apart(kind[1]), "<br>".join(_place(one) for one in examples[kind]))
        for kind, count in counts.most_common(MOST_REASONS)
    ]
    more = f"<p>And {len(counts) - MOST_REASONS} reasons more.</p>" if len(counts) > MOST_REASONS else ""
    return table(("samples", "fault of", "reason", "for instance"), rows) + more


def reason_of(one: Substitution) -> str:
    """The reason without what is the sample's own, so that equal ones count together."""
    return one.reason.replace(one.key, "…") if one.key else one.reason


def _place(one: Substitution) -> str:
    return f"{apart(one.key, 80)} in {shown(one.dataset, 60)}/{shown(one.shard, 60)} ({one.split}, {one.task})"
