"""The audit: its numbers, its words, and the committed page."""

from __future__ import annotations

from pathlib import Path

import pytest

from sunbench.paper import checks, counts
from sunbench.paper.audit import Report, findings, lines, markdown, report

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made() -> Report:
    return report()


def test_parameter_counts():
    assert counts.sun() == 19_194_240
    assert counts.sun(add_pos=True) == 38_388_480
    assert counts.lcm_lora() == 67_252_224
    assert counts.lcm_lora(time_embedding=True) == 67_518_464
    assert counts.boostdiff_lora() == 1_659_904
    assert counts.boostdiff_lora("sd1") == 1_594_368
    assert (counts.biases(), counts.biases("sd1"), counts.linear_biases()) == (
        343_684,
        343_684,
        184_960,
    )
    sizes = [counts.parameters(counts.unet("sd1", **c)) for c in counts.BK.values()]
    assert sizes == [579_384_964, 482_346_884, 323_384_964]
    assert abs(counts.sun_macs() / 1e9 - 3.25) < 0.01


def test_no_choice_of_layers_gives_the_papers_count():
    below, above = counts.nearest_subset(18_500_000)
    assert below < 18_450_000
    assert above > 18_550_000
    assert 19_169_280 in counts.subsets(0)
    assert 17_203_200 in counts.subsets(0)  # without the mid block


def test_nothing_comes_out_otherwise_than_written(made: Report):
    assert [c.what for c in made.checks if c.surprise] == []


def test_ratios_and_equalities(made: Report):
    said = {(c.finding, c.what): c.computed for c in made.checks}
    assert said["sun-speed-up", "V100, unet"] == "11.53x"
    assert said["sun-speed-up", "V100, pipeline"] == "7.05x"
    assert said["sun-speed-up", "M1Pro, pipeline"] == "8.50x"
    assert said["sun-table-1-copied", "fid at 4 and 8 steps"] == "8 of 8 equal LCM's"
    assert said["sun-table-1-copied", "clip at 4 and 8 steps"] == "8 of 8 equal LCM's / 100, cut"
    assert said["sun-clip-12", "CLIP, 8 to 12 steps"] == "+0.023 to +0.042"
    assert said["sun-table-4-same", "p = 0.1 against Table 2"] == "4 of 4 equal"
    assert said["ddim-spacing", "4 steps, leading"] == "751, 501, 251, 1"
    assert said["boostdiff-weight", "(sigma / alpha)^2"].startswith("62.5% on t >= 900")


def test_a_changed_number_is_a_surprise(monkeypatch: pytest.MonkeyPatch):
    true = checks._seconds
    monkeypatch.setattr(
        checks, "_seconds", lambda r, h, c: true(r, h, c) * (10 if "25" in r else 1)
    )
    gains = [c for c in checks.table_3_checks() if c.finding == "sun-speed-up"]
    assert [c.surprise for c in gains] == [False, True, False, True]


def test_findings_and_checks_belong_together(made: Report):
    ids = [f.id for f in findings()]
    assert len(set(ids)) == len(ids)
    assert {c.finding for c in made.checks} == {f.id for f in findings() if f.kind == "computed"}
    assert len(lines(made)) == len(made.checks)


def test_the_committed_page_is_this_one(made: Report):
    file = ROOT / "reports" / "paper_audit.md"
    if not file.is_file():
        pytest.skip("not a checkout")
    assert file.read_text("utf-8") == markdown(made)
