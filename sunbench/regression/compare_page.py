"""The page of a comparison, in Markdown."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from sunbench.regression.compare import RunComparison, Verdict
from sunbench.report.formats import markdown_table, paragraph
from sunbench.report.texts import number
from sunbench.store import make_folder, write_atomic

log = logging.getLogger(__name__)

#: Columns of the verdict table.
HEAD = ["verdict", "row", "metric", "baseline", "run", "change", "allowed", "why"]


def _line(v: Verdict) -> list[str]:
    r = v.row
    what = f"{r.model} · {r.method} · {r.steps} steps"
    base = "–" if v.verdict == "new" or r.value is None else number(r.value)
    value = "–" if v.value is None else number(v.value)
    if v.change is None:
        return [v.verdict, what, r.metric, base, value, "–", "–", v.why]
    change = f"{v.change.value:+.3g} [{v.change.low:+.3g}, {v.change.high:+.3g}]"
    return [v.verdict, what, r.metric, base, value, change, f"{v.limit:.3g}", v.why]


def verdict_lines(comparison: RunComparison) -> list[list[str]]:
    """Lines of the verdict table, worst first; their head is HEAD."""
    return [_line(v) for v in comparison.verdicts]


def comparison_markdown(comparison: RunComparison) -> str:
    """The page: one sentence, what is wrong, the verdicts, and what else is different."""
    parts = ["# Comparison with the baseline", paragraph(comparison.headline)]
    if comparison.problems:
        parts.append("\n".join(f"- {paragraph(p)}" for p in comparison.problems))
    if comparison.verdicts:
        parts.append(markdown_table(HEAD, verdict_lines(comparison)))
    if comparison.changes:
        lines = "\n".join(f"- {paragraph(c)}" for c in comparison.changes)
        parts.append(f"Also different between the two runs:\n\n{lines}")
    return "\n\n".join(parts) + "\n"


def write_comparison(comparison: RunComparison, run: Path) -> Path:
    """Write ``tables/compare.md`` of the run, and add it to ``$GITHUB_STEP_SUMMARY`` when set."""
    file, text = run / "tables" / "compare.md", comparison_markdown(comparison)
    make_folder(file.parent)
    write_atomic(file, text.encode())
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(summary).open("a", encoding="utf-8") as out:
                out.write(text)
        except OSError as error:
            log.warning("cannot write GITHUB_STEP_SUMMARY=%s: %s", summary, error.strerror)
    return file
