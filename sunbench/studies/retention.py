"""What "plugs into any fine-tune" keeps: a student trained on a fine-tune beside a plugged-in one.

Retention of a method on a fine-tune is the distance of the student that was trained there over that
of the base's student plugged in: 1 keeps everything, 0.5 doubles the distance. Both are measured by
runs of their own, on the same prompts and seeds. In seed units a distance is a share of what
another seed moves the image.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sunbench.errors import UserError
from sunbench.metrics.registry import find
from sunbench.report.formats import markdown_table, plain
from sunbench.report.texts import number
from sunbench.store import ResultRow

#: Deviations on either side of a 95 % interval of a normal variable.
NORMAL = 1.96
Place = tuple[str, str, int]


@dataclass(frozen=True)
class Retention:
    """A method at a number of steps on one fine-tune.

    dose: share of the fine-tune's training, None where it is not said. trained: the row of the
    student trained there, None where there is none. ratio: retention with its 95 % interval.
    """

    plugged: ResultRow
    trained: ResultRow | None
    dose: float | None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def place(self) -> Place:
        """Method, model and steps."""
        return self.plugged.method, self.plugged.model, self.plugged.steps


def _measured(rows: Iterable[ResultRow], metric: str) -> dict[Place, ResultRow]:
    return {
        (r.method, r.model, r.steps): r
        for r in rows
        if r.role == "candidate" and r.metric == metric and r.value is not None
    }


def _log_error(row: ResultRow) -> float:
    """Standard error of the log of a row's value, by its interval."""
    if row.low is None or row.high is None or row.low <= 0:
        return math.inf
    return (math.log(row.high) - math.log(row.low)) / (2 * NORMAL)


def retentions(
    plugged: Sequence[ResultRow],
    trained: Sequence[ResultRow],
    metric: str,
    doses: Mapping[str, float] | None = None,
) -> list[Retention]:
    """A line per method, steps and model of the plugged-in run, by method, steps and dose.

    Errors: UserError for a metric of which more is better, for runs on other prompts or numbers of
    images, and for a dose of a model that the run does not have.
    """
    if find(metric).metric.better != "lower":
        raise UserError(f"given {metric}, expected a distance: retention is a ratio of distances")
    rows, own = _measured(plugged, metric), _measured(trained, metric)
    doses = dict(doses or {})
    models = {model for _, model, _ in rows}
    if strange := sorted(doses.keys() - models):
        raise UserError(
            f"given a dose of {strange[0]}, expected one of {', '.join(sorted(models))}"
        )
    out = [_retention(row, own.get(place), doses.get(row.model)) for place, row in rows.items()]
    return sorted(out, key=lambda r: (r.plugged.method, r.plugged.steps, r.dose or 0, r.place))


def _retention(row: ResultRow, own: ResultRow | None, dose: float | None) -> Retention:
    if own is None or row.value is None or own.value is None or not row.value:
        return Retention(row, own, dose)
    if (row.prompts, row.n, row.task) != (own.prompts, own.n, own.task):
        raise UserError(
            f"{row.name}: given {row.n} images of {row.prompts} plugged in and {own.n} of"
            f" {own.prompts} trained there, expected the same"
        )
    ratio, error = own.value / row.value, math.hypot(_log_error(row), _log_error(own))
    if not math.isfinite(error):
        return Retention(row, own, dose, ratio)
    return Retention(
        row,
        own,
        dose,
        ratio,
        ratio * math.exp(-NORMAL * error),
        ratio * math.exp(NORMAL * error),
    )


# ------------------------------------------------------------------------------ page

NOTE = (
    "Retention is the distance of the student trained on the fine-tune over that of the base's"
    " student plugged in: 1 keeps everything, below 1 plugging in costs. Its interval takes the two"
    " rows as independent; they show the same prompts, so it is wider than it has to be. Seed"
    " units: 0 is the reference's image, 1 as far as another seed."
)


def _value(row: ResultRow | None) -> str:
    if row is None or row.value is None:
        return "–"
    if row.low is None or row.high is None:
        return number(row.value)
    return f"{number(row.value)} [{number(row.low)}, {number(row.high)}]"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _line(r: Retention) -> list[str]:
    ratio = _share(r.ratio)
    if r.low is not None and r.high is not None:
        ratio += f" [{r.low:.2f}, {r.high:.2f}]"
    seeds = [_share(None if row is None else row.relative) for row in (r.plugged, r.trained)]
    dose = "–" if r.dose is None else f"{100 * r.dose:.0f} %"
    name = f"`{r.plugged.method}`"
    where = [name, str(r.plugged.steps), plain(r.plugged.model), dose]
    return [*where, _value(r.plugged), _value(r.trained), ratio, *seeds]


def page(rows: Sequence[Retention], metric: str, commands: Sequence[str] = ()) -> str:
    """The audit as Markdown: the table, and the runs that it is of."""
    head = ["method", "steps", "model", "fine-tuned", f"{metric}, plugged in", "trained there"]
    head += ["retention", "seed units, plugged in", "seed units, trained there"]
    parts = ["# What plugging in keeps", NOTE, markdown_table(head, [_line(r) for r in rows])]
    if commands:
        parts += ["Runs:", "```sh\n" + "\n".join(commands) + "\n```"]
    return "\n\n".join(parts) + "\n"


def curve(rows: Sequence[Retention], metric: str) -> bytes | None:
    """Distance plugged in over the share of the fine-tune's training: PNG, None without doses."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes, drawn = figure.add_subplot(), False
    for name in sorted({(r.plugged.method, r.plugged.steps) for r in rows}):
        line = [
            (r.dose, r.plugged.value)
            for r in rows
            if (r.plugged.method, r.plugged.steps) == name and r.dose is not None
        ]
        if len({dose for dose, _ in line}) > 1:
            axes.plot(*zip(*line, strict=True), marker="o", label=f"{name[0]}, {name[1]} steps")
            drawn = True
    if not drawn:
        return None
    axes.set_xlabel("share of the fine-tune's training")
    axes.set_ylabel(f"{metric}, plugged in")
    axes.legend(frameon=False)
    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data)
    return data.getvalue()
