"""Where messages go, and how tables are laid out on a screen."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

import typer
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table
from rich.text import Text

out = Console()
err = Console(stderr=True)


def say(text: str, style: str = "") -> None:
    """Print one line of plain text: no markup, no colors of its own, no wrapping."""
    out.print(Text(text, style), soft_wrap=True)


def print_json(document: Any) -> None:
    """Print a document as JSON."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False, default=str))


#: How a cell of a column of numbers begins; a dash and n/a stand for a number that is not there.
_NUMBER = re.compile(r"[+±-]?[0-9]|–|n/a|$")


def rich_table(title: str, head: list[str], lines: list[list[str]], wrap: bool = True) -> Table:
    """A Rich table of plain text: markup in names is printed as it stands.

    Columns of numbers are flush right; names, in the first column, are broken last.
    """
    built = Table(title=escape(title), title_justify="left", header_style="bold")
    for i, column in enumerate(head):
        numbers = i > 0 and all(_NUMBER.match(line[i]) for line in lines)
        side: JustifyMethod = "right" if numbers else "left"
        whole = not wrap or i == 0
        built.add_column(escape(column), overflow="fold", justify=side, no_wrap=whole)
    for line in lines:
        built.add_row(*(Text(c) for c in line))
    return built


def tables(title: str, head: list[str], lines: list[list[str]], fixed: int) -> list[Table]:
    """One table where the screen has the width, else several with the first columns in each."""

    def with_columns(start: int, end: int) -> Table:
        columns = [*range(fixed), *range(start, end)]
        rows = [[line[i] for i in columns] for line in lines]
        return rich_table(
            title if start == fixed else "", [head[i] for i in columns], rows, wrap=False
        )

    def fits(part: Table) -> bool:
        wide = out.options.update(max_width=10_000)  # else no table measures more than the screen
        return out.measure(part, options=wide).maximum <= out.width

    parts: list[Table] = []
    start = fixed
    while start < len(head) or not parts:
        end = len(head)
        while end > start + 1 and not fits(with_columns(start, end)):
            end -= 1
        parts.append(with_columns(start, end))
        start = end
    return parts


def column_head(head: str) -> str:
    """A column head in lines of few letters, an arrow beside what it belongs to."""
    name, bracket, rest = head.partition("[")
    features, _, arrow = rest.rpartition(" ")
    if bracket:
        return f"{name} {arrow}\n[{features}"
    kept = re.sub(" (?=[↑↓])", "\N{NO-BREAK SPACE}", head)
    return textwrap.fill(kept, 15, break_long_words=False, break_on_hyphens=False)


def literal_help(command: Callable[..., Any]) -> str:
    """A command's docstring as help text: brackets stay, paragraphs wrap as the screen does."""
    paragraphs = (command.__doc__ or "").split("\n\n")
    return escape("\n\n".join(" ".join(p.split()) for p in paragraphs))


def records(head: Iterable[str], lines: Iterable[Iterable[str]]) -> list[dict[str, str]]:
    """Lines of a table as objects by column."""
    columns = list(head)
    return [dict(zip(columns, line, strict=True)) for line in lines]
