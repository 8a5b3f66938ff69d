"""A table with its caption and notes, as Markdown, CSV and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from sunbench.report.formats import LATEX, csv_text, markdown_table, paragraph
from sunbench.store import write_atomic
from sunbench.store.files import make_folder


@dataclass(frozen=True)
class Page:
    """One table to print.

    lead: what it is and how it was measured. marks of notes stand in cells as ``(a)`` at the end.
    records: the same as flat rows for the CSV.
    """

    name: str
    title: str
    lead: tuple[str, ...]
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    records: tuple[Mapping[str, object], ...] = field(repr=False)


def _plain(text: str) -> str:
    """A paragraph of Markdown in which data stays text."""
    return paragraph(" ".join(text.split())).replace("*", "\\*")


def markdown(page: Page) -> str:
    """The page as GitHub Markdown."""
    parts = [f"# {_plain(page.title)}", *map(_plain, page.lead)]
    parts.append(markdown_table(list(page.head), [list(line) for line in page.lines]))
    if page.notes:
        parts.append("\n".join(f"- {_plain(n)}" for n in page.notes))
    return "\n\n".join(parts) + "\n"


def records_csv(records: Sequence[Mapping[str, object]]) -> str:
    """Flat rows, full precision."""
    return csv_text(pd.DataFrame(list(records), dtype=object))


# ------------------------------------------------------------------------------ LaTeX

_LATEX = LATEX | {
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textquotesingle{}",
    "[": "{[}",  # a line that began with one would be read as an argument of the line before
    "]": "{]}",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
}
_MARK = re.compile(r" \(([a-z0-9]{1,2})\)$")


def escape(text: str) -> str:
    """Plain text for LaTeX."""
    return "".join(_LATEX.get(c, c) for c in " ".join(text.split()))


def _latex_cell(text: str) -> str:
    mark = _MARK.search(text)
    if mark is None:
        return escape(text)
    return escape(text[: mark.start()]) + rf"\textsuperscript{{{mark[1]}}}"


def latex(page: Page) -> str:
    """A booktabs table with caption, label and notes."""
    body = [" & ".join(_latex_cell(c) for c in line) + r" \\" for line in page.lines]
    notes = [escape(n) + r"\par" for n in page.notes]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,textcomp}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(' '.join((page.title + '.', *page.lead)))}}}",
            rf"\label{{tab:{page.name}}}",
            rf"\begin{{tabular}}{{ll{'r' * (len(page.head) - 2)}}}",
            r"\toprule",
            " & ".join(escape(c) for c in page.head) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\par\medskip",
            r"{\footnotesize\raggedright",
            *notes,
            r"}",
            r"\end{table}",
            "",
        ]
    )


def write_formats(page: Page, folder: Path) -> list[Path]:
    """Write ``NAME.md``, ``NAME.csv`` and ``NAME.tex``; returns their paths."""
    make_folder(folder)
    texts = {"md": markdown(page), "csv": records_csv(page.records), "tex": latex(page)}
    paths = [folder / f"{page.name}.{suffix}" for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_atomic(path, text.encode())
    return paths


class Marks:
    """Letters for the notes on single cells, each text once: a, b, ..."""

    def __init__(self, letters: str) -> None:
        self.letters, self.texts = letters, list[str]()

    def mark(self, text: str) -> str:
        """The mark of a text, with a blank before it; nothing for an empty one."""
        if not text:
            return ""
        if text not in self.texts:
            self.texts.append(text)
        return f" ({self._sign(self.texts.index(text))})"

    def _sign(self, i: int) -> str:
        return self.letters[i] if i < len(self.letters) else str(i)

    def notes(self) -> list[str]:
        """What the marks mean."""
        return [f"({self._sign(i)}) {text}" for i, text in enumerate(self.texts)]
