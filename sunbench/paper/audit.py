"""The paper audit: findings from data, with what was recomputed beside them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from sunbench.paper.catalogue import papers
from sunbench.paper.check import Check
from sunbench.paper.checks import checks
from sunbench.report.tables import markdown_table

HEAD = ("finding", "what", "paper", "computed", "agrees")
UNSAID = ("-", "unsaid")
KINDS = {
    "computed": "recomputed below",
    "read": "read in the paper or the code",
    "judged": "our judgement",
}


@dataclass(frozen=True)
class Finding:
    """One thing found: what the paper says, what we found, on what evidence.

    command: what shows it, where something beside the audit itself does.
    """

    id: str
    paper: str
    title: str
    claim: str
    found: str
    evidence: str
    kind: str
    command: str = ""


@dataclass(frozen=True)
class Report:
    """Findings, and every recomputed line."""

    findings: tuple[Finding, ...]
    checks: tuple[Check, ...]

    def of(self, finding: Finding) -> list[Check]:
        """The lines of one finding."""
        return [c for c in self.checks if c.finding == finding.id]


@cache
def findings() -> tuple[Finding, ...]:
    """All findings, in order."""
    text = resources.files("sunbench.paper").joinpath("findings.toml").read_text("utf-8")
    return tuple(Finding(**f) for f in tomllib.loads(text)["finding"])


def report() -> Report:
    """Findings with what can be recomputed, recomputed."""
    return Report(findings(), tuple(checks()))


def _line(check: Check) -> list[str]:
    verdict = "–" if check.paper in UNSAID else "yes" if check.agrees else "no"
    return [check.what, check.paper, check.computed, verdict + " (!)" * check.surprise]


def lines(made: Report) -> list[list[str]]:
    """The recomputed lines as a table."""
    return [[c.finding, *_line(c)] for c in made.checks]


def _section(made: Report, f: Finding) -> str:
    parts = [f"### {f.title}", f"*The paper:* {f.claim}", f"*Found:* {f.found}"]
    parts.append(f"*Evidence* ({KINDS[f.kind]}): {f.evidence}")
    own = made.of(f)
    if own:
        parts.append(markdown_table(list(HEAD[1:]), [_line(c) for c in own]))
    command = f.command or ("sunbench paper audit" if own else "")
    if command:
        parts.append(f"Shown by `{command}`.")
    return "\n\n".join(parts)


def markdown(made: Report) -> str:
    """The whole audit as one page."""
    counts = {k: sum(f.kind == k for f in made.findings) for k in KINDS}
    parts = [
        "# Paper audit",
        "What was found when checking the papers that this project measures against."
        f" {len(made.findings)} findings: {counts['computed']} are recomputed by"
        f" `sunbench paper audit`, {counts['read']} are read in a paper or its code,"
        f' {counts["judged"]} is judgement and says so. "agrees" compares what the paper prints'
        ' or implies with what comes out; "(!)" would mark a line that no longer comes out as'
        " when this was written. This page is written by"
        " `sunbench paper audit --out reports/paper_audit.md`.",
    ]
    for name, paper in papers().items():
        parts.append(f"## {paper.title}")
        parts += [_section(made, f) for f in made.findings if f.paper == name]
    return "\n\n".join(parts) + "\n"
