"""Ranks that differences allow, and distances of sets beside what they owe to N."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from result_rows import result_row

from sunbench.report.data import RunData
from sunbench.report.headline import RANK, RANK_NFE, headline
from sunbench.report.ranks import finite_n_table, rank_texts, set_pair_table, unordered
from sunbench.report.tables import notes, tables_markdown
from sunbench.report.texts import short_text
from sunbench.store import FiniteNRow, PairRow, ResultRow, SetPairRow


def pair(a: str, b: str, difference: float, width: float, **more: Any) -> PairRow:
    ends = difference - width, difference + width
    return PairRow(
        "tiny", 4, "lpips[alex]", a, b, 0.5, 0.4, 0.6, 50, difference, *ends, 0.5, **more
    )


PAIRS = (
    pair("ddim", "sun", 0.2, 0.1),
    pair("dpm++", "sun", 0.1, 0.2),
    pair("ddim", "dpm++", 0.3, 0.1),
)
SET = SetPairRow("tiny", 4, "fd[zoo-clip]", "ddim", "sun", 0.5, 0.1, 0.9, 0.01, False, False)
FINITE = [
    FiniteNRow("tiny", role, method, "fd[zoo-clip]", steps, 100, value, 2.5, 1.5, 0.25)
    for role, method, steps, value in (("candidate", "ddim", 4, 2.0), ("floor", "dpm++", 25, 4.0))
]


def row(method: str, metric: str, value: float) -> ResultRow:
    ends = {"value": value, "low": value, "high": value}
    return result_row(method=method, metric=metric, n=50, key=method, **ends)


METHODS = ("ddim", "dpm++", "sun")
ROWS = [row(m, x, 0.5) for x in ("lpips[alex]", "fd[zoo-clip]") for m in METHODS]


def test_ranks_are_what_corrected_differences_allow():
    assert rank_texts(PAIRS, "lpips[alex]") == {
        ("ddim", 4): "3",
        ("dpm++", 4): "1–2",
        ("sun", 4): "1–2",
    }
    assert rank_texts(PAIRS, "ssim") == {}


def test_ranks_at_equal_nfe_are_of_cells():
    """Two methods within a budget have other numbers of steps."""
    pairs = [
        replace(PAIRS[0], steps_b=8, nfe=8),
        replace(pair("ddim", "sun", -0.2, 0.1), steps=8, steps_b=16, nfe=16),
    ]
    assert rank_texts(pairs, "lpips[alex]") == {
        ("ddim", 4): "2",
        ("sun", 8): "1",
        ("ddim", 8): "1",
        ("sun", 16): "2",
    }
    assert [p.place for p in pairs] == ["8 NFE", "16 NFE"]
    head, lines = headline([replace(ROWS[0], nfe=8)], "tiny", pairs=pairs)
    assert lines[0][head.index(RANK_NFE)] == "2"
    data = RunData(ROWS, win_rates=tuple(pairs), set_pairs=(replace(SET, nfe=8),))
    assert "Ranks are by lpips[alex] among methods at equal NFE" in tables_markdown(data)
    assert "Differences between methods at equal NFE" in tables_markdown(data)
    assert "| 4 / 8 |" in tables_markdown(data)


def test_an_equivalent_method_is_not_better():
    equal = (pair("ddim", "sun", 0.001, 0.0005, equivalent=True),)
    assert rank_texts(equal, "lpips[alex]") == {("ddim", 4): "1–2", ("sun", 4): "1–2"}
    assert equal[0].verdict == "equivalent (B closer by less than the margin)"


@pytest.mark.parametrize("text", [None, short_text])
def test_the_headline_has_ranks_and_marks_what_n_does_not_settle(text: Any):
    more = {} if text is None else {"text": text}
    head, lines = headline(ROWS, "tiny", pairs=PAIRS, set_pairs=(SET,), **more)
    at, fd = head.index(RANK), head.index("fd[zoo-clip] ↓")
    assert [line[at] for line in lines] == ["3", "1–2", "1–2"]
    assert [line[fd].endswith(" ‡") for line in lines] == [True, False, True]
    assert not any("‡" in line[fd - 1] for line in lines)


def test_a_headline_without_comparisons_has_no_column_for_them():
    assert RANK not in headline(ROWS, "tiny")[0]
    assert notes(RunData(ROWS), "tiny") == []


def test_sets_are_told_beside_what_they_owe_to_n():
    head, lines = finite_n_table(FINITE, "other seeds")
    assert head[3:] == ["at N", "over the floor's", "at N / 2", "N to infinity", head[-1]]
    assert lines == [
        ["fd[zoo-clip]", "ddim", "4", "2", "0.50", "2.5", "1.5", "0.25"],
        ["fd[zoo-clip]", "other seeds", "25", "4", "1.00", "2.5", "1.5", "0.25"],
    ]
    assert finite_n_table(FINITE[:1], "")[1][0][4] == "–"


def test_pairs_of_sets_say_whether_their_order_holds():
    line = set_pair_table((SET,))[1][0]
    assert line[4:] == ["+0.5 [+0.1, +0.9]", "B closer", "changes"]
    assert unordered((SET,)) == {("ddim", 4, "fd[zoo-clip]"), ("sun", 4, "fd[zoo-clip]")}


def test_a_page_of_results_has_both_tables_and_explains_the_marks():
    data = RunData(ROWS, win_rates=PAIRS, set_pairs=(SET,), finite_n=tuple(FINITE))
    page = tables_markdown(data)
    for text in (
        RANK,
        "### Distances of sets and the number of images",
        "‡: the order of",
        "B clo",
    ):
        assert text in page
    assert "Ranks are by lpips[alex] among methods at equal steps" in page
