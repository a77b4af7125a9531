"""`mplug2 report`: it looks at a run's folder, and writes nothing but the page."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, such as runs/demo; the run may be going on")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Page to write; by default RUN/report.html", show_default=False)] = None,
) -> None:
    """Write one HTML page about a run: curves, timeline, layout, and what the model said."""
    from megatron_mplug2.observability.report.page import REPORT_NAME, write_run_report

    page = out or run / REPORT_NAME
    write_run_report(run, page)
    typer.echo(f"wrote {page}")
