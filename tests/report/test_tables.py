"""Tables: numbers, reasons, order, and names that try to break out of their cell."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from result_rows import result_row
from timing_rows import timing_row

from sunbench.errors import UserError
from sunbench.paper.page import Page, records_csv
from sunbench.paper.page import markdown as paper_markdown
from sunbench.regression.compare import RunComparison
from sunbench.regression.compare_page import comparison_markdown
from sunbench.report.board import board
from sunbench.report.data import CellTime, RunData, model_names, read_run
from sunbench.report.formats import csv_text, markdown_table, plain
from sunbench.report.headline import best_lines, headline
from sunbench.report.tables import (
    FLOOR,
    latency_markdown,
    requirements_table,
    results_frame,
    summary,
    tables_latex,
    tables_markdown,
    win_rate_table,
    write_tables,
)
from sunbench.report.texts import cell_text, nfe_text, number, reasons, short_text
from sunbench.report.times import flags, throughput_table, time_table
from sunbench.store import PairRow, Results, RunFolder, SetPairRow, TrainingRequirements
from sunbench.store.timings import Spread

ROW = result_row(metric="fd[zoo-clip]", value=12.3456, low=11.0, high=14.25)
REASON = replace(ROW, method="dpm++", value=None, low=None, high=None, nfe=None, reason="no CFG")
REFERENCE = replace(
    ROW, method="dpm++", role="reference", steps=25, nfe=50, metric="clip_score[zoo-clip]"
)
FLOOR_ROW = replace(
    ROW, method="dpm++", role="floor", steps=25, nfe=50, value=3.0, low=2.5, high=3.5
)
ROWS = [REFERENCE, FLOOR_ROW, ROW, REASON]
NEEDS = TrainingRequirements(
    model="tiny",
    method="lcm",
    training="once per model",
    negative_prompts=False,
    base="emoji",
    parameters=2_200_000,
    images=96_000,
    seconds=2345.6,
)
UNKNOWN = TrainingRequirements("tiny", "mine")
PAIR = asdict(PairRow("tiny", 4, "ssim", "ddim", "dpm++", 0.25, 0.125, 0.5, 100))
HOSTILE = "a|b\n## c & d_e % $f# {g} \\h ~i^ <b>"


# ------------------------------------------------------------------------------ numbers


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12))
def test_numbers_keep_three_digits_or_more(value: float):
    assert float(number(value)) == pytest.approx(value, rel=5.1e-3, abs=1e-300)


@given(st.floats(min_value=1e-3, max_value=1e9))
def test_everyday_sizes_have_no_exponent_and_four_digits(value: float):
    text = number(value)
    assert "e" not in text
    assert float(text) == pytest.approx(value, rel=5.1e-4)
    assert number(-value) == "-" + text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (12.3456, "12.35"),
        (123.456, "123.5"),
        (1234.56, "1235"),
        (123456.7, "123457"),
        (0.87341, "0.8734"),
        (0.0123456, "0.01235"),
        (0.00123456, "0.001235"),
        (0.000123456, "1.23e-04"),
        (1.0, "1.000"),
    ],
)
def test_numbers(value: float, text: str):
    assert number(value) == text


def test_cells_hold_a_value_with_its_interval_or_the_reason():
    assert cell_text(ROW) == "12.35 [11.00, 14.25]"
    assert cell_text(replace(ROW, low=None, high=None)) == "12.35"
    assert cell_text(REASON) == "no CFG"
    assert cell_text(None) == "–"
    assert short_text(ROW) == "12.3\n±1.6"
    assert short_text(replace(ROW, value=0.00454, low=0.0026, high=0.0066)) == "0.0045\n±0.0020"
    assert short_text(replace(ROW, value=1234.5, low=1100.0, high=1400.0)) == "1234\n±150"
    assert short_text(replace(ROW, low=12.3456, high=12.3456)) == "12.35"
    assert short_text(REASON) == "n/a"
    assert reasons([ROW, REASON]) == [f"{REASON.metric}: no CFG"]


# ------------------------------------------------------------------------------ lines


def test_candidates_come_first_and_references_last():
    head, lines = headline(ROWS, "tiny")
    assert head[:3] == ["method", "steps", "NFE"]
    assert [line[:3] for line in lines] == [
        ["ddim", "4", "8"],
        ["dpm++", "4", "–"],
        ["reference", "25", "50"],
        [FLOOR, "25", "50"],
    ]


def test_methods_and_models_keep_the_order_of_the_run():
    rows = [replace(ROW, model=m, method=x) for m in ("z", "a") for x in ("unipc", "ddim")]
    assert model_names(rows) == ["z", "a"]
    assert [line[0] for line in headline(rows, "a")[1]] == ["unipc", "ddim"]


def test_columns_say_which_way_is_better():
    rows = [ROW, replace(ROW, metric="ssim"), replace(ROW, metric="perceptual[zoo-clip]")]
    head, (line,) = headline(rows, "tiny")
    assert head[3:] == ["fd[zoo-clip] ↓", "ssim ↑", "perceptual[zoo-clip] ↓"]
    assert len(line) == len(head)


def test_floor_line_prints_the_floor_of_set_distances():
    assert "same N): fd[zoo-clip] 3.000 [2.500, 3.500]." in tables_markdown(RunData(ROWS))
    assert "No floor was measured." in tables_markdown(RunData([ROW]))


def test_training_requirements_are_a_table_of_their_own():
    head, lines = requirements_table([NEEDS, UNKNOWN])
    assert lines[0] == ["lcm", "once per model", "no", "emoji", "2,200,000", "96,000", "2,346"]
    assert lines[1] == ["mine", *["–"] * (len(head) - 1)]
    needs = (NEEDS, replace(NEEDS, model="other", method="sun"))
    text = tables_markdown(RunData(ROWS, requirements=needs))
    assert "| lcm | once per model | no | emoji | 2,200,000 | 96,000 | 2,346 |" in text
    assert "| sun |" not in text
    assert "### Training requirements" in text
    assert "requirements" not in tables_markdown(RunData(ROWS))


def test_reasons_stand_in_their_cells():
    text = tables_markdown(RunData(ROWS))
    assert "| dpm++ | 4 | – |" in text
    assert text.count("no CFG") == 1


# ------------------------------------------------------------------------------ Markdown


def columns(line: str) -> int:
    return re.sub(r"\\.", "", line).count("|") - 1


def test_markdown_cells_cannot_break_the_table():
    table = markdown_table(["a|x", "b", "c"], [["1|2\n3", "\\|", "–"], ["x", "y\r\nz", "w"]])
    lines = table.splitlines()
    assert len(lines) == 4
    assert {columns(line) for line in lines} == {3}


def test_a_hostile_model_name_stays_in_its_heading():
    rows = [replace(r, model=HOSTILE, prompts="p`\n# q") for r in ROWS]
    lines = tables_markdown(RunData(rows)).splitlines()
    assert [line for line in lines if line.startswith("#")] == [lines[0]]
    assert lines[0].startswith("## a")
    assert "&lt;b" in lines[0]
    assert "`" not in lines[2].replace("p`", "")


@pytest.mark.parametrize(
    "name", ["![x](http://a.b/c.png)", "[x](http://a.b)", "![x][y]", "<img src=x>", "](x)"]
)
def test_names_are_neither_images_nor_links_nor_tags(name: str):
    text = re.sub(r"\\\\", "", plain(name))
    assert not re.search(r"(?<!\\)!\[|\](\(|\[)|<", text)


def test_every_page_keeps_names_text():
    """A remote image would tell its server who reads the page."""
    hostile = "![x](http://a.b/c.png)"
    rows = [replace(r, model=hostile) for r in (REFERENCE, FLOOR_ROW, ROW, REASON)]
    rows += [replace(REASON, model=hostile, method=hostile, reason=hostile)]
    pages = [tables_markdown(RunData(rows)), board(RunData(rows), (8,), ROW.metric)]
    pages += [paper_markdown(Page("t", hostile, (hostile,), ("a",), ((hostile,),), (hostile,), ()))]
    pages += [comparison_markdown(RunComparison((), (hostile,), (hostile,)))]
    for page in pages:
        assert "a.b" in page
        assert "](http" not in page


# ------------------------------------------------------------------------------ LaTeX


def test_latex_escapes_every_special_character():
    text = tables_latex([replace(ROW, method="a_b & 50% $ # { } \\ ~ ^", metric="cos[zoo-clip]")])
    (line,) = [x for x in text.splitlines() if x.startswith("a")]
    assert line == (
        r"a\_b \& 50\% \$ \# \{ \} \textbackslash{} \textasciitilde{} \textasciicircum{}"
        r" & 4 & 8 & 12.35 [11.00, 14.25] \\"
    )
    assert r"cos[zoo-clip] $\uparrow$ \\" in text


def test_latex_of_a_hostile_model_is_a_comment():
    """A line break in the name once ended the comment."""
    text = tables_latex([replace(ROW, model="a\n\\input{b}\r\\c")])
    outside = [x for x in text.splitlines() if not x.startswith("%")]
    assert not any("input" in x or "\\c" in x for x in outside)


def test_latex_cells_hold_no_line_break():
    text = tables_latex([replace(REASON, reason="one\n\ntwo")])
    assert "one  two" in text


def test_latex_has_a_tabular_a_model():
    text = tables_latex([*ROWS, replace(ROW, model="other")])
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    body = [x for x in text.splitlines() if x.endswith(r"\\")]
    assert {x.count(" & ") for x in body[:5]} == {4}


# ------------------------------------------------------------------------------ CSV and the rest


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1"])
def test_no_text_of_a_csv_is_a_formula(name: str):
    frame = results_frame([replace(ROW, model=name, value=-1.5, low=-2.0, high=-1.0)])
    (record,) = csv.DictReader(io.StringIO(csv_text(frame)))
    assert record["model"] == "'" + name
    assert (record["value"], record["low"]) == ("-1.5", "-2.0")
    (record,) = csv.DictReader(io.StringIO(records_csv([{"model": name, "value": -1.5}])))
    assert (record["model"], record["value"]) == ("'" + name, "-1.5")


def test_csv_keeps_full_precision_and_any_name():
    rows = [replace(ROW, value=1 / 3, low=0.1, high=0.7, model=HOSTILE), REASON]
    records = list(csv.DictReader(io.StringIO(csv_text(results_frame(rows)))))
    assert float(records[0]["value"]) == 1 / 3
    assert records[0]["model"] == HOSTILE
    assert (records[1]["value"], records[1]["reason"]) == ("", "no CFG")


def times(role: str, method: str, unet: float, nfe: float = 8.0) -> CellTime:
    return CellTime("tiny", method, role, 4, nfe, unet, 0.02, 0.005)


def test_latencies_are_in_milliseconds_beside_the_reference():
    reference = CellTime("tiny", "dpm++", "reference", 25, 50.0, 0.1, 0.11, 0.015)
    floor = replace(reference, role="floor")
    head, lines = time_table([reference, floor, times("candidate", "ddim", 0.025)])
    assert head[3:] == ["end to end ms", "U-Net ms", "speed-up", "U-Net speed-up"]
    assert lines == [
        ["reference", "25", "50", "125.00", "100.00", "1.00x", "1.00x"],
        ["ddim", "4", "8", "25.00", "25.00", "5.00x", "4.00x"],
    ]


def test_the_latency_is_the_median_of_whole_images_as_in_the_throughput_table():
    parts = {"sampler_seconds": (0.1, 0.3, 0.2), "decoder_seconds": (0.3, 0.1, 0.1)}
    row = timing_row("tiny", "ddim", "candidate", 4, 8.0, (0.0, 0.1, 0.1, 0.1), **parts)
    assert time_table([CellTime.of(row)])[1][0][3] == "400.00"  # medians of parts: 0.2 + 0.1
    assert "400.00 [" in throughput_table([row])[1][0][3]


def test_times_without_a_reference_have_no_gain():
    assert time_table([times("candidate", "ddim", 0.025)])[1][0][-2:] == ["–", "–"]


def test_what_no_paper_specifies_says_so():
    rows = [*ROWS, replace(ROW, method="int8:gri-attention")]
    assert "\nint8:gri-attention: unspecified in the paper" in tables_markdown(RunData(rows))
    assert "unspecified" not in tables_markdown(RunData(ROWS))


def test_networks_in_turns_are_counted_each():
    row = replace(ROW, method="switch-s1", steps=25, nfe=50)
    assert nfe_text([REASON, row]) == "50 (20 + 30)"
    assert nfe_text([replace(row, method="switch:model@5")]) == "50"
    assert time_table([times("candidate", "switch-s3", 0.025, 50)])[1][0][2] == "50 (20 + 30)"


def test_a_speed_up_above_the_ratio_of_nfe_is_flagged_wherever_it_appears():
    reference = CellTime("tiny", "dpm++", "reference", 25, 50.0, 0.1, 0.11, 0.015)
    odd = times("candidate", "ddim", 0.001)  # 100x in the U-Net, at 6.25 times fewer NFE
    data = RunData(ROWS, times=(reference, odd))
    assert time_table(data.times)[1][1][-2:] == ["5.00x †", "100.00x †"]
    assert flags(data.times) == ["ddim at 4 steps: 100.00x is above the ratio of NFE, 6.25"]
    assert "- †ddim at 4 steps: 100.00x is above" in latency_markdown(data)
    head, lines = headline(ROWS, "tiny", times=data.times)
    assert (head[3], lines[0][3]) == ("speed-up", "5.00x †")


def test_flags_of_the_timing_pass_are_printed_with_the_number_once_per_reason():
    odd = {"speed_up": Spread(5.0, 4.0, 6.0), "flags": ("busy machine: x", "unsteady: y")}
    rows = [
        timing_row("tiny", "dpm++", "reference", 25, 50.0, (0.001, 0.1, 0.09, 0.02)),
        timing_row("tiny", "ddim", "candidate", 4, 8.0, (0.001, 0.02, 0.01, 0.003), **odd),
        timing_row("tiny", "lcm", "candidate", 4, 4.0, (0.001, 0.02, 0.01, 0.003), **odd),
    ]
    rows[2] = replace(rows[2], flags=("busy machine: x",))
    times = tuple(CellTime.of(row) for row in rows)
    assert time_table(times)[1][1] == ["ddim", "4", "8", "24.00", "10.00", "5.00x †", "–"]
    assert flags(times) == ["every method: busy machine: x", "ddim at 4 steps: unsteady: y"]
    batch = replace(rows[1], batch=4, flags=())
    text = latency_markdown(RunData(ROWS, times=times, timing=(*rows, batch)))
    assert "- †every method: busy machine: x" in text
    assert "| ddim | 4 | 4 | 24.00 [24.00, 24.00] | 166.67 | 200 | 3 |" in text
    assert "| ddim | 4 | 1 | 24.00 [24.00, 24.00] † | 41.67 † | 200 | 3 |" in text


def test_win_rates_print_their_interval_and_what_is_not_distinguishable():
    rate = PairRow("tiny", 4, "ssim", "ddim", "dpm++", 0.25, 0.125, 0.5, 100)
    assert win_rate_table([rate])[1][0] == [
        *("ssim", "ddim", "dpm++", "4", "0.250 [0.125, 0.500]", "–", "not distinguishable")
    ]
    assert win_rate_table([replace(rate, high=0.49)])[1][0][-1] == "B closer"
    corrected = replace(rate, difference=0.2, difference_low=-0.01, difference_high=0.41)
    line = win_rate_table([replace(corrected, p_adjusted=0.08, high=0.4)])[1][0]
    assert line[-2:] == ["+0.2 [-0.01, +0.41]", "not distinguishable"]
    assert replace(corrected, equivalent=True).verdict == "equivalent"


@pytest.mark.parametrize("kind", ["paired", "sets"])
@pytest.mark.parametrize(
    ("ends", "equivalent", "verdict"),
    [
        ((-0.1, 0.0, 0.1), False, "not distinguishable"),
        ((-0.1, 0.0, 0.1), True, "equivalent"),
        ((-0.3, -0.2, -0.1), False, "A closer"),
        ((0.1, 0.2, 0.3), None, "B closer"),
        ((-0.3, -0.2, -0.1), True, "equivalent (A closer by less than the margin)"),
        ((0.1, 0.2, 0.3), True, "equivalent (B closer by less than the margin)"),
    ],
)
def test_verdicts_are_read_off_their_intervals(
    kind: str, ends: tuple[float, ...], equivalent: bool | None, verdict: str
):
    low, value, high = ends
    row: PairRow | SetPairRow = PairRow(
        *("tiny", 4, "ssim", "ddim", "dpm++", 0.5, 0.4, 0.6, 100, value, low, high),
        equivalent=equivalent,
    )
    if kind == "sets":
        place = ("tiny", 4, "fd[zoo-clip]", "ddim", "dpm++")
        row = SetPairRow(*place, value, low, high, 0.5, equivalent, None)
    assert row.verdict == verdict
    assert row.distinguishable == ("closer" in verdict)


def test_the_headline_leads_with_the_distance_relative_to_a_new_seed():
    moved = replace(ROW, relative=0.384, relative_low=0.36, relative_high=0.41)
    head, lines = headline([REFERENCE, FLOOR_ROW, moved, REASON], "tiny")
    assert head[3] == "moves, % of a new seed ↓"
    assert [line[3] for line in lines] == ["38 [36, 41]", "–", "–", "–"]


def test_the_best_of_a_column_is_a_candidate_in_the_right_direction():
    other = replace(ROW, method="unipc", value=11.5)
    ssim = [replace(r, metric="ssim") for r in (ROW, other)]
    best = best_lines([*ROWS, other, *ssim], "tiny")
    assert best["fd[zoo-clip]"] == {("unipc", 4)}
    assert best["ssim"] == {("ddim", 4)}
    assert "clip_score[zoo-clip]" not in best


def test_summary_has_a_line_a_cell_with_everything():
    rows = [*ROWS, replace(ROW, method="lcm", metric="ssim", nfe=4, value=0.5)]
    spent = [
        times("candidate", "lcm", 0.025),
        replace(times("reference", "dpm++", 0.1), steps=25),
    ]
    head, lines = summary(rows, spent, [NEEDS, UNKNOWN])
    assert head == [
        "model",
        "method",
        "steps",
        "NFE",
        "clip_score[zoo-clip] ↑",
        "fd[zoo-clip] ↓",
        "ssim ↑",
        "end to end ms",
        "U-Net ms",
        "training",
        "negative prompts",
        "trained parameters",
        "training images",
        "training s",
    ]
    none, took = ["–"] * 5, ["once per model", "no", "2200000", "96000", "2346"]
    assert lines == [
        ["tiny", "ddim", "4", "8", "–", "12.35", "–", "–", "–", *none],
        ["tiny", "dpm++", "4", "–", "–", "no CFG", "–", "–", "–", *none],
        ["tiny", "lcm", "4", "4", "–", "–", "0.5000", "25.00", "25.00", *took],
        ["tiny", "reference", "25", "50", "12.35", "–", "–", "25.00", "100.00", *none],
        ["tiny", FLOOR, "25", "50", "–", "3.000", "–", "–", "–", *none],
    ]


def test_written_tables_hold_every_model_and_are_the_same_twice(tmp_path: Path):
    run = RunFolder(tmp_path)
    rows = [*ROWS, replace(ROW, model="other")]
    row = timing_row("tiny", "ddim", "candidate", 4, 8.0, (0.001, 0.02, 0.01, 0.005))
    run.write_results(Results(tuple(rows), timing=(row,)))
    write_tables(run)
    first = {f.name: f.read_bytes() for f in (tmp_path / "tables").iterdir()}
    write_tables(run)
    assert {f.name: f.read_bytes() for f in (tmp_path / "tables").iterdir()} == first
    for name in ("results.md", "results.csv", "results.tex"):
        assert b"other" in first[name]
    assert first["pairs.csv"] == b""
    assert list(csv.reader(io.StringIO(first["summary.csv"].decode())))[-1][:2] == ["other", "ddim"]
    assert b"ddim" in first["times.csv"]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"timing": 3}, "timing: given 3, expected a list"),
        ({"timing": [3]}, r"timing\[0\]: given 3, expected an object"),
        ({"timing": [{"model": "m"}]}, r"timing\[0\]: given no method, no role"),
        ({"pairs": [PAIR | {"model": None}]}, r"pairs\[0\], model: given None, expected text"),
        ({"pairs": {"a": 1}}, "pairs: given .*, expected a list"),
        ({"requirements": [NEEDS.to_json() | {"parameters": "many"}]}, "parameters: given 'many'"),
    ],
)
def test_a_wrongly_typed_document_is_one_line(tmp_path: Path, part: dict, message: str):
    run = RunFolder(tmp_path)
    run.results_file.write_text(json.dumps(Results(tuple(ROWS)).to_json() | part))
    with pytest.raises(UserError, match=message) as error:
        read_run(run)
    assert "\n" not in str(error.value)
