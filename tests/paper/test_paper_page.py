"""Markdown and LaTeX of a table: everything stays text, everything is balanced."""

from __future__ import annotations

import re

import pytest

from sunbench.paper.page import Marks, Page, escape, latex, markdown, records_csv

HOSTILE = r"a|b <i>x</i> 50% & $1 #2 _c_ {d} ~e ^f \g [h] “i” "


def page(*lines: tuple[str, ...]) -> Page:
    records = ({"row": HOSTILE, "value": 1.5},)
    return Page(
        "t", "title & more", (HOSTILE,), ("method", "", "4 steps"), lines, (HOSTILE,), records
    )


def unescaped(text: str, sign: str) -> int:
    return len(re.findall(rf"(?<!\\)(?:\\\\)*{re.escape(sign)}", text))


def test_latex_is_balanced_and_has_as_many_cells_in_every_line():
    text = latex(page((HOSTILE, "paper", "1.0 (1)"), ("", "here", "[2.0, 3.0] (a)")))
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1
    assert unescaped(text, "{") == unescaped(text, "}")
    assert unescaped(text, "$") % 2 == 0
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    lines = [x for x in body.splitlines() if x.endswith(r"\\")]
    assert [unescaped(x, "&") for x in lines] == [2, 2, 2]
    assert r"\begin{tabular}{llr}" in text
    assert r"1.0\textsuperscript{1}" in text
    assert r"{[}2.0, 3.0{]}\textsuperscript{a}" in text


@pytest.mark.parametrize(
    ("plain", "escaped"),
    [
        ("50%", r"50\%"),
        ("a_b", r"a\_b"),
        ("fd[zoo-clip] ↓", r"fd{[}zoo-clip{]} $\downarrow$"),
        ("x\ny", "x y"),
        ("\\", r"\textbackslash{}"),
        ("<4>", r"\textless{}4\textgreater{}"),
    ],
)
def test_escape(plain: str, escaped: str):
    assert escape(plain) == escaped


def test_markdown_keeps_data_text():
    text = markdown(page((HOSTILE, "paper", "1.0")))
    assert "<i>" not in text
    assert text.count("\n| ") == 2 + 1
    assert r"a\|b" in text


def test_csv_is_flat_and_may_be_empty():
    assert records_csv(page().records).splitlines()[0] == "row,value"
    assert records_csv([]) == ""


def test_marks_are_one_a_text():
    marks = Marks("ab")
    assert [marks.mark(x) for x in ("x", "y", "x", "")] == [" (a)", " (b)", " (a)", ""]
    assert marks.mark("z") == " (2)"
    assert marks.notes() == ["(a) x", "(b) y", "(2) z"]
