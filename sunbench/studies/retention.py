"""What "plugs into any fine-tune" keeps: a student trained on a fine-tune beside a plugged-in one.

Retention of a method on a fine-tune is the distance of the student that was trained there over that
of the base's student plugged in: 1 keeps everything, 0.5 doubles the distance. Both are measured by
runs of their own, on the same prompts and seeds. In seed units a distance is a share of what
another seed moves the image.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sunbench.errors import UserError
from sunbench.metrics.registry import find_metric
from sunbench.report.figures import COLORS, MARKS, SHEET_WIDTH, STYLE
from sunbench.report.formats import markdown_table, plain
from sunbench.report.texts import number
from sunbench.store import ResultRow

#: Deviations on either side of a 95 % interval of a normal variable.
NORMAL = 1.96
Place = tuple[str, str, int]
#: (fine-tune, method, steps) -> (share of the training, distance) by share.
Curves = dict[tuple[str, str, int], list[tuple[float, float]]]


@dataclass(frozen=True)
class Dose:
    """How far a model is on the way to a fine-tune: a share of its training or weights, 0 to 1."""

    fine_tune: str
    share: float


@dataclass(frozen=True)
class Retention:
    """A method at a number of steps on one fine-tune.

    dose: how far the model is fine-tuned, None where it is not said. trained: the row of the
    student trained there, None where there is none. ratio: retention with its 95 % interval.
    """

    plugged: ResultRow
    trained: ResultRow | None
    dose: Dose | None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def place(self) -> Place:
        """Method, model and steps."""
        return self.plugged.method, self.plugged.model, self.plugged.steps

    @property
    def is_base(self) -> bool:
        """Whether the model is 0 % of itself: where the curves of all fine-tunes begin."""
        return self.dose == Dose(self.plugged.model, 0.0)


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
    doses: Mapping[str, Dose] | None = None,
) -> list[Retention]:
    """A line per method, steps and model of the plugged-in run, by method, steps and dose.

    doses: by model. Errors: UserError for a metric of which more is better, for runs on other
    prompts or numbers of images, and for a dose of a model that the run does not have.
    """
    if find_metric(metric).metric.better != "lower":
        raise UserError(f"given {metric}, expected a distance: retention is a ratio of distances")
    rows, own = _measured(plugged, metric), _measured(trained, metric)
    doses = dict(doses or {})
    models = {model for _, model, _ in rows}
    if strange := sorted(doses.keys() - models):
        raise UserError(
            f"given a dose of {strange[0]}, expected one of {', '.join(sorted(models))}"
        )
    out = [_retention(row, own.get(place), doses.get(row.model)) for place, row in rows.items()]
    return sorted(out, key=_order)


def _order(r: Retention) -> tuple[str, int, str, float, str]:
    dose = r.dose or Dose(r.plugged.model, 0.0)
    return r.plugged.method, r.plugged.steps, dose.fine_tune, dose.share, r.plugged.model


def _retention(row: ResultRow, own: ResultRow | None, dose: Dose | None) -> Retention:
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


def _dose(r: Retention) -> str:
    if r.dose is None:
        return "–"
    if r.is_base:
        return "base"
    of = "" if r.dose.fine_tune == r.plugged.model else f" of {plain(r.dose.fine_tune)}"
    return f"{100 * r.dose.share:.0f} %{of}"


def _line(r: Retention) -> list[str]:
    ratio = _share(r.ratio)
    if r.low is not None and r.high is not None:
        ratio += f" [{r.low:.2f}, {r.high:.2f}]"
    seeds = [_share(None if row is None else row.relative) for row in (r.plugged, r.trained)]
    name = f"`{r.plugged.method}`"
    where = [name, str(r.plugged.steps), plain(r.plugged.model), _dose(r)]
    return [*where, _value(r.plugged), _value(r.trained), ratio, *seeds]


def page(rows: Sequence[Retention], metric: str, commands: Sequence[str] = ()) -> str:
    """The audit as Markdown: the table, and the runs that it is of."""
    head = ["method", "steps", "model", "fine-tuned", f"{metric}, plugged in", "trained there"]
    head += ["retention", "seed units, plugged in", "seed units, trained there"]
    parts = ["# What plugging in keeps", NOTE, markdown_table(head, [_line(r) for r in rows])]
    if commands:
        parts += ["Runs:", "```sh\n" + "\n".join(commands) + "\n```"]
    return "\n\n".join(parts) + "\n"


# ------------------------------------------------------------------------------ figure

PANELS, PANEL_HEIGHT = 3, 2.1  # in a line; inches
MARK, LETTER, LINE = 0.6, 0.055, 0.16  # inches of a legend's entry


def curves(rows: Iterable[Retention]) -> Curves:
    """Distances plugged in over the share of training: a curve per fine-tune, method and steps.

    All begin at the base, if there is one. What has one share alone is left out.
    """
    out: Curves = {}
    starts: dict[tuple[str, int], float] = {}
    for r in rows:
        method, steps, value = r.plugged.method, r.plugged.steps, r.plugged.value
        if r.dose is None or value is None:
            continue
        if r.is_base:
            starts[method, steps] = value
        else:
            points = out.setdefault((r.dose.fine_tune, method, steps), [])
            points.append((r.dose.share, value))
    for (_, method, steps), points in out.items():
        if (method, steps) in starts:
            points.append((0.0, starts[method, steps]))
    return {k: sorted(points) for k, points in out.items() if len({x for x, _ in points}) > 1}


def draw(rows: Iterable[Retention], metric: str) -> Figure | None:
    """A panel per fine-tune, in it a line per method and steps; None without a curve."""
    distances = curves(rows)
    if not distances:
        return None
    tunes, looks = sorted({tune for tune, _, _ in distances}), _looks(distances)
    entries = max(1, int(SHEET_WIDTH / (MARK + LETTER * max(map(len, looks)))))
    columns = min(PANELS, len(tunes))
    lines = math.ceil(len(tunes) / columns)
    height = 0.3 + PANEL_HEIGHT * lines + LINE * math.ceil(len(looks) / entries)
    figure = Figure(figsize=(SHEET_WIDTH, height), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axes in panels[:, 0]:
        axes.set_ylabel(textwrap.fill(f"{metric}, plugged in", 34))
    for axes in panels.flat[len(tunes) :]:
        axes.set_axis_off()
    for tune, axes in zip(tunes, panels.flat, strict=False):
        own = {_name(k): points for k, points in distances.items() if k[0] == tune}
        _panel(axes, tune, own, looks)
    handles = [Line2D([], [], color=c, marker=m, ms=4, label=n) for n, (c, m) in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=entries)
    return figure


def _name(place: tuple[str, str, int]) -> str:
    return f"{place[1]}, {place[2]} steps"


def _looks(distances: Curves) -> dict[str, tuple[str, str]]:
    """Color and mark of each method and steps, the same in every panel."""
    names = dict.fromkeys(_name(place) for place in sorted(distances, key=lambda k: k[1:]))
    return {n: (COLORS[i % len(COLORS)], MARKS[i % len(MARKS)]) for i, n in enumerate(names)}


def _panel(
    axes: Axes,
    tune: str,
    own: dict[str, list[tuple[float, float]]],
    looks: dict[str, tuple[str, str]],
) -> None:
    for name, points in own.items():
        color, mark = looks[name]
        x, y = [100 * share for share, _ in points], [value for _, value in points]
        axes.plot(x, y, color=color, marker=mark, ms=4, label=name)
    axes.set(xlim=(-5, 105), xticks=range(0, 101, 25), xlabel="share of the fine-tune, %")
    axes.set_title(textwrap.fill(tune, 30), fontsize=8)
    axes.grid(color="0.9", lw=0.5)


def curve(rows: Iterable[Retention], metric: str) -> bytes | None:
    """Distance plugged in over the share of the fine-tune's training: PNG, None without doses."""
    with rc_context(STYLE):
        figure = draw(rows, metric)
        if figure is None:
            return None
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=200, metadata={"Software": None})
    return data.getvalue()
