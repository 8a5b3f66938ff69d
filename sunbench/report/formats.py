"""Tables as text: Markdown, CSV and LaTeX, in which no cell can become anything but a cell."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

#: Head and lines of a printed table.
Table = tuple[list[str], list[list[str]]]

#: What a character is in LaTeX.
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    c: "\\" + c for c in "&%$#_{}"
}
LATEX |= {"↓": r"$\downarrow$", "↑": r"$\uparrow$", "–": "--", "†": r"\dag{}"}


def paragraph(text: str) -> str:
    """One line of plain text in Markdown: no tag, image or link keeps a meaning."""
    line = " ".join(text.splitlines()).replace("\\", "\\\\").replace("<", "&lt;")
    return line.replace("](", "]\\(").replace("![", "!\\[").replace("][", "]\\[")


def plain(text: str) -> str:
    """The same in a table's cell: no bar keeps a meaning either."""
    return paragraph(text).replace("|", "\\|")


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]], left: int = 3) -> str:
    """A GitHub table, its first ``left`` columns flush left."""
    clean = [[plain(c) for c in line] for line in [head, *lines]]
    rule = ["---" if k < left else "---:" for k in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in [clean[0], rule, *clean[1:]])


def latex_text(text: str) -> str:
    """One line in which no character has a meaning to LaTeX."""
    return "".join(LATEX.get(c, c) for c in " ".join(text.splitlines()))


def latex_table(table: Table, title: str) -> str:
    """A booktabs tabular under a comment with its title."""
    head, lines = table
    frame = pd.DataFrame(
        [[latex_text(c) for c in line] for line in lines],
        columns=[latex_text(h) for h in head],
    )
    text = frame.to_latex(index=False, escape=False, column_format=f"l{'r' * (len(head) - 1)}")
    return f"% {latex_text(title)}\n{text.strip()}"


def csv_text(frame: pd.DataFrame) -> str:
    """CSV at full precision; no text of it is a formula to a spreadsheet."""
    if frame.empty:
        return ""
    safe = {  # as objects: a whole number beside gaps stays one
        name: pd.Series([_no_formula(v) for v in column], dtype=object)
        for name, column in frame.items()
    }
    return str(pd.DataFrame(safe).to_csv(index=False, lineterminator="\n"))


def _no_formula(value: object) -> object:
    return "'" + value if isinstance(value, str) and re.match(r"[=+\-@\t\r]", value) else value
