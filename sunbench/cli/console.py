"""Where messages go, and how tables are laid out on a screen."""

from __future__ import annotations

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

out = Console()
err = Console(stderr=True)


def table(title: str, head: list[str], lines: list[list[str]], wrap: bool = True) -> Table:
    """A Rich table of plain text: markup in names is printed as it stands."""
    built = Table(title=title, title_justify="left", header_style="bold")
    for i, column in enumerate(head):
        side: JustifyMethod = "right" if i else "left"
        built.add_column(escape(column), overflow="fold", justify=side, no_wrap=not wrap)
    for line in lines:
        built.add_row(*(escape(c) for c in line))
    return built


def tables(title: str, head: list[str], lines: list[list[str]], fixed: int) -> list[Table]:
    """One table where the screen has the width, else several with the first columns in each."""

    def with_columns(start: int, end: int) -> Table:
        kept = [*range(fixed), *range(start, end)]
        rows = [[line[i] for i in kept] for line in lines]
        return table(title if start == fixed else "", [head[i] for i in kept], rows, wrap=False)

    def fits(table: Table) -> bool:
        wide = out.options.update(max_width=10_000)  # else no table measures more than the screen
        return out.measure(table, options=wide).maximum <= out.width

    made: list[Table] = []
    start = fixed
    while start < len(head) or not made:
        end = len(head)
        while end > start + 1 and not fits(with_columns(start, end)):
            end -= 1
        made.append(with_columns(start, end))
        start = end
    return made


def metric_head(metric: str) -> str:
    """A metric's column head in two lines, its direction in the first: narrower."""
    name, bracket, rest = metric.partition("[")
    features, _, arrow = rest.rpartition(" ")
    return f"{name} {arrow}\n[{features}" if bracket else metric
