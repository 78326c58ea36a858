"""The report of `ssft bench tasks` as files: JSON, one HTML page, one PNG."""

from pathlib import Path

from ssft.bench.report.page import html_report
from ssft.bench.report.plots import overview_figure, to_png
from ssft.bench.result import SuiteResult
from ssft.files import check_target, write_bytes, write_json, write_text

REPORT_FILES = ("report.json", "report.html", "report.png")


def write_report(result: SuiteResult, folder: Path) -> list[Path]:
    """Write `REPORT_FILES` into a folder, which is made if need be: each file whole or not at all.

    The JSON comes first: it alone cannot be made again from the others. With no finished task there is no picture, and
    an older one, which would not belong to the new JSON, is removed.
    """
    data, page, picture = (Path(folder) / name for name in REPORT_FILES)
    write_json(data, result)
    write_text(page, html_report(result))
    if not any(task.bench.methods for task in result.tasks.values()):
        picture.unlink(missing_ok=True)
        return [data, page]
    check_target(picture)
    write_bytes(picture, to_png(overview_figure, result))
    return [data, page, picture]
