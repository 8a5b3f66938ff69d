"""The gate on runs written by hand: matching, verdicts, refusals, the page, the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_documents import model_record, run_document

from sunbench.cli import main
from sunbench.errors import NotAvailable, UserError
from sunbench.metrics import clip_score, cosine, mean_estimate
from sunbench.regression.compare import RunComparison, compare, save_baseline
from sunbench.regression.compare_page import comparison_markdown, write_comparison
from sunbench.regression.tolerances import Tolerance, load_tolerances, tolerance_of
from sunbench.store import (
    CellContent,
    CellStore,
    ResultRow,
    Results,
    Role,
    RunFolder,
    ShardRow,
    key,
)
from sunbench.store.shared import settings_key

WEIGHTS = "0123abcd"
TOLERANCES = {
    "clip_score": Tolerance(0.05, 0.0, 0.1),
    "ssim": Tolerance(0.01, 0.0),
    "psnr": Tolerance(0.1, 0.0),
    "perceptual": Tolerance(0.01, 0.0),
    "cos": Tolerance(0.01, 0.0),
    "fd": Tolerance(0.1, 0.02),
}
PAIRS = ("perceptual[zoo-clip]", "ssim", "psnr", "cos[zoo-clip]")


class Words:
    """A text tower: a prompt's embedding is that of its last letter."""

    key = WEIGHTS + "and more"

    def embed_text(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([[1.0, ord(t[-1]) - 96.0, 0.5] for t in texts])


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUNBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.setattr("sunbench.bench.paired_scores.clip_extractor", lambda net, device: Words())


# ------------------------------------------------------------------------------ a run by hand


def content(
    method: str, steps: int, seeds: list[int], n: int = 6, **changes: Any
) -> dict[str, Any]:
    whole = {
        "model": "tiny",
        "weights": {"unet": "u" * 12, "vae": "v" * 12},
        "method": method,
        "settings": {"solver": method},
        "steps": steps,
        "guidance_scale": 3.0,
        "task": "text2image",
        "prompts": {"name": "letters", "hash": f"hash-of-{n}", "n": n},
        "seeds": seeds,
        "resolution": 16,
        "dtype": "float32",
        "shard_size": 4,
    }
    return {**whole, **changes}


def store_cell(folder: Path, cell: dict[str, Any], features: dict[str, Any]) -> None:
    seeds = cell["seeds"]
    store = CellStore(folder / key(cell), cell)
    layout = CellContent.of(cell, "content").layout
    for k in range(layout.shards):
        at = layout.shard(k)
        places = [(i, i // len(seeds), seeds[i % len(seeds)]) for i in at]
        rows = [
            ShardRow(i, f"p{p}", s, f"letter {chr(97 + p)}", "", f"noise {p} {s}")
            for i, p, s in places
        ]
        store.write_shard(k, rows, {name: x[at] for name, x in features.items()})


def row(
    role: Role,
    cell: dict[str, Any],
    metric: str,
    value: Any,
    protocol: str,
    weights: str = WEIGHTS,
) -> ResultRow:
    estimate = value if isinstance(value, tuple) else None
    if estimate is None:
        groups = np.arange(len(value)) // len(cell["seeds"])
        e = mean_estimate(value, groups)
        estimate = (e.value, e.low, e.high)
    n = cell["prompts"]["n"] * len(cell["seeds"])
    return ResultRow(
        "tiny", cell["method"], role, cell["steps"], "text2image", "letters", metric, *estimate, n,
        8, protocol, weights if "[" in metric else "", None, key(cell),
    )  # fmt: skip


def write_run(
    path: Path,
    *,
    n: int = 6,
    seeds: tuple[int, ...] = (0, 1),
    shift: dict[str, float] | None = None,
    turn: float = 0.0,
    fd: tuple[float, float, float] = (2.0, 1.9, 2.1),
    floor_fd: tuple[float, float, float] = (1.0, 0.9, 1.1),
    methods: tuple[str, ...] = ("ddim", "dpm++"),
    weights: str = WEIGHTS,
    protocol: str = "as ever",
    reference_steps: int = 25,
    change: Callable[[list[ResultRow]], list[ResultRow]] = list,
    **changes: Any,
) -> Path:
    """A finished run; shift: what is added to ddim's scores; turn: of the reference's images."""
    shift = shift or {}
    if turn or weights != WEIGHTS:  # else the two would share one reference in the cache
        changes["weights"] = {"unet": "u" * 12, "vae": f"w{turn}{weights}"}
    rng, cache = np.random.default_rng(0), path.parent / "cache/reference_sets"
    embed = f"embed-zoo-clip-{weights}"
    first = content("dpm++", reference_steps, list(seeds), n, **changes)
    others = [s + 1_000_000 for s in seeds]
    floor = content("dpm++", reference_steps, others, n, **changes)
    images = n * len(seeds)
    words = Words().embed_text([f"letter {chr(97 + i // len(seeds))}" for i in range(images)])
    rows, entries = [], []
    embedded = rng.normal(size=(images, 3)) + 3
    embedded = embedded + turn * np.array([[1, -1, 0], [-1, 1, 0]])[np.arange(images) % 2]
    for role, cell in (("reference", first), ("floor", floor)):
        mine = embedded if role == "reference" else rng.normal(size=(images, 3)) + 3
        store_cell(cache, cell, {embed: mine})
        scores = clip_score(mine, words.numpy())
        rows.append(row(role, cell, "clip_score[zoo-clip]", scores, protocol, weights))
        entries.append((role, cell))
    rows.append(row("floor", floor, "fd[zoo-clip]", floor_fd, protocol, weights))
    for method in methods:
        cell = content(method, 4, list(seeds), n, **changes)
        own = shift if method == "ddim" else {}
        mine = embedded + rng.normal(size=(images, 3)) * 0.1
        pixels = rng.uniform(0.4, 0.6, (images, 2)) * [1, 40]
        pixels += [own.get("ssim", 0.0), own.get("psnr", 0.0)]
        perceptual = rng.uniform(0.2, 0.6, images) + own.get("perceptual", 0.0)
        home = f"paired-{settings_key(first)[:12]}"
        features = {
            embed: mine,
            f"{home}-ssim": pixels[:, 0],
            f"{home}-psnr": pixels[:, 1],
            f"{home}-perceptual-zoo-clip-{weights}": perceptual,
        }
        store_cell(path / "cells", cell, features)
        entries.append(("candidate", cell))
        values = (perceptual, *pixels.T, cosine(mine, embedded))
        estimates = (*zip(PAIRS, values, strict=True), ("fd[zoo-clip]", fd))
        rows += [row("candidate", cell, m, v, protocol, weights) for m, v in estimates]
    folder = RunFolder(path)
    folder.write_run(run_document(model_record("tiny", entries)))
    folder.write_results(Results(tuple(change(rows))))
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_run(tmp_path / "base")


def judge(base: Path, run: Path) -> RunComparison:
    return compare(base, run, TOLERANCES)


def name_of(row: ResultRow) -> str:
    return row.method if row.role == "candidate" else row.role


def verdicts(comparison: RunComparison) -> dict[tuple[str, str], str]:
    return {(name_of(v.row), v.row.metric): v.verdict for v in comparison.verdicts}


def only(comparison: RunComparison, method: str = "ddim") -> dict[str, str]:
    """Verdicts of what is not the same."""
    return {m: v for (who, m), v in verdicts(comparison).items() if v != "same" and who == method}


# ------------------------------------------------------------------------------ verdicts


def test_equal_runs_are_the_same(base: Path, tmp_path: Path):
    comparison = judge(base, write_run(tmp_path / "run"))
    assert set(verdicts(comparison).values()) == {"same"}
    assert comparison.exit_code() == 0
    assert comparison.headline == "No row is worse than the baseline: 13 same."


@pytest.mark.parametrize(
    ("metric", "by", "verdict"),
    [
        ("ssim", -0.02, "worse"),
        ("ssim", 0.02, "better"),
        ("ssim", -0.009, "same"),
        ("psnr", -0.2, "worse"),
        ("psnr", 0.2, "better"),
        ("perceptual", 0.02, "worse"),
        ("perceptual", -0.02, "better"),
        ("perceptual", 0.009, "same"),
    ],
)
def test_direction_and_tolerance(base: Path, tmp_path: Path, metric: str, by: float, verdict: str):
    """By pairs: the same shift is far inside the intervals of the two values."""
    comparison = judge(base, write_run(tmp_path / "run", shift={metric: by}))
    label = "perceptual[zoo-clip]" if metric == "perceptual" else metric
    one = next(v for v in comparison.verdicts if (v.row.method, v.row.metric) == ("ddim", label))
    assert one.verdict == verdict
    assert one.change is not None
    assert one.change.value == pytest.approx(by, abs=1e-6)
    assert only(comparison) == ({} if verdict == "same" else {label: verdict})
    assert comparison.exit_code() == (verdict == "worse")


def test_without_scores_an_image_intervals_decide(base: Path, tmp_path: Path):
    light = tmp_path / "light"
    save_baseline(base, light)
    strip(light, "psnr")
    assert only(judge(light, write_run(tmp_path / "near", shift={"psnr": -0.2}))) == {}
    comparison = judge(light, write_run(tmp_path / "far", shift={"psnr": -9.0}))
    assert only(comparison) == {"psnr": "worse"}
    assert {v.why for v in comparison.verdicts if v.row.metric == "psnr"} == {"by intervals"}


def strip(light: Path, metric: str) -> None:
    """Take a metric's scores out of a light baseline."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    file = light / "per_image.safetensors"
    with safe_open(file, "numpy") as held:
        about = held.metadata()
        kept = {n: held.get_tensor(n) for n in list(held.keys()) if not n.endswith(metric)}
    save_file(kept, file, about)


@pytest.mark.parametrize(
    ("fd", "verdict"),
    [
        ((2.10, 2.0, 2.2), "same"),  # within the tolerance
        ((2.25, 2.1, 2.4), "same"),  # beyond it, but not with the whole interval
        ((2.60, 2.5, 2.7), "worse"),
        ((1.40, 1.3, 1.5), "better"),
    ],
)
def test_set_metrics_by_intervals(base: Path, tmp_path: Path, fd: Any, verdict: str):
    comparison = judge(base, write_run(tmp_path / "run", fd=fd))
    assert verdicts(comparison)["ddim", "fd[zoo-clip]"] == verdict


@pytest.mark.parametrize("floor", [(0.1, 0.05, 0.15), (3.0, 2.9, 3.1)])
def test_the_floor_may_not_move_either_way(base: Path, tmp_path: Path, floor: Any):
    comparison = judge(base, write_run(tmp_path / "run", floor_fd=floor))
    assert only(comparison, "floor") == {"fd[zoo-clip]": "worse"}
    assert "reference itself moved" in comparison.verdicts[0].why


def test_the_reference_may_not_move_even_when_its_mean_does_not(base: Path, tmp_path: Path):
    comparison = judge(base, write_run(tmp_path / "run", turn=0.5))
    moved = next(v for v in comparison.verdicts if v.row.role == "reference")
    assert moved.verdict == "worse"
    assert "mean |change|" in moved.why


# ------------------------------------------------------------------------------ by meaning


def test_order_of_rows_and_keys_of_cells_do_not_matter(base: Path, tmp_path: Path):
    run = write_run(tmp_path / "run", change=lambda rows: rows[::-1], dtype="bfloat16")
    comparison = judge(base, run)
    assert set(verdicts(comparison).values()) == {"same"}
    assert [c.split(" (")[0] for c in comparison.changes] == ["dtype: float32 -> bfloat16"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"n": 5}, "images: 10, the baseline's 12"),
        ({"seeds": (0, 2)}, r"seeds: \[0, 2\], the baseline's \[0, 1\]"),
        ({"prompts": {"name": "other", "hash": "x" * 9, "n": 6}}, "prompt set: other xxxxxxxx"),
        ({"guidance_scale": 7.5}, "guidance: 7.5, the baseline's 3.0"),
        ({"resolution": 32}, "pixels per side: 32"),
        ({"protocol": "bilinear"}, "protocol: bilinear, the baseline's as ever"),
    ],
)
def test_what_means_something_else_is_refused(
    base: Path, tmp_path: Path, changes: dict[str, Any], why: str
):
    with pytest.raises(UserError, match=why):
        judge(base, write_run(tmp_path / "run", **changes))


def test_another_feature_network_concerns_its_metrics_alone(base: Path, tmp_path: Path):
    comparison = judge(base, write_run(tmp_path / "run", weights="ffffffff"))
    assert only(comparison) == dict.fromkeys(
        ("perceptual[zoo-clip]", "cos[zoo-clip]", "fd[zoo-clip]"), "not comparable"
    )
    assert "feature network: ffffffff, the baseline's 0123abcd" in comparison.headline
    assert comparison.exit_code() == comparison.exit_code(allow_missing=True) == 2


def test_another_reference_is_another_comparison(base: Path, tmp_path: Path):
    why = "reference: dpm\\+\\+ at 50 steps, the baseline's dpm\\+\\+ at 25 steps"
    with pytest.raises(UserError, match=why):
        judge(base, write_run(tmp_path / "run", reference_steps=50))


def test_missing_and_new_rows(base: Path, tmp_path: Path):
    comparison = judge(base, write_run(tmp_path / "run", methods=("ddim", "unipc")))
    lost = [v for v in comparison.verdicts if name_of(v.row) == "dpm++"]
    assert {(v.verdict, v.why) for v in lost} == {("not comparable", "missing in the run")}
    assert set(only(comparison, "unipc").values()) == {"new"}
    assert (comparison.exit_code(), comparison.exit_code(allow_missing=True)) == (2, 0)


def test_a_row_without_a_value_says_why(base: Path, tmp_path: Path):
    def fail(rows: list[ResultRow]) -> list[ResultRow]:
        none = {"value": None, "low": None, "high": None, "reason": "out of reach"}
        return [replace(r, **none) if r.metric == "ssim" else r for r in rows]

    lost = write_run(tmp_path / "lost", change=fail)
    comparison = judge(base, lost)
    assert only(comparison) == {"ssim": "not comparable"}
    assert comparison.verdicts[0].why == "the run has none: out of reach"
    assert only(judge(lost, base)) == {"ssim": "new"}
    assert "ssim" not in only(judge(lost, lost))


def test_worse_goes_before_not_comparable(base: Path, tmp_path: Path):
    run = write_run(tmp_path / "run", methods=("ddim",), shift={"ssim": -0.3, "psnr": -0.5})
    comparison = judge(base, run)
    assert comparison.exit_code() == 1
    order = [(v.verdict, v.row.metric) for v in comparison.verdicts]
    assert order[:3] == [("worse", "ssim"), ("worse", "psnr"), order[2]]
    assert order[2][0] == "not comparable"
    assert comparison.headline.startswith(
        "Worse: 2 of 13 rows, first ssim of ddim at 4 steps on tiny"
    )


# ------------------------------------------------------------------------------ light baselines


def test_a_light_baseline_says_what_the_run_says(base: Path, tmp_path: Path):
    run = write_run(tmp_path / "run", shift={"ssim": -0.02}, turn=0.5)
    for name in ("light", "again"):
        save_baseline(base, tmp_path / name)
    assert judge(tmp_path / "light", run) == judge(base, run)
    files = sorted(p.name for p in (tmp_path / "light").iterdir())
    assert files == ["per_image.safetensors", "results.json", "run.json"]
    for name in files:
        assert (tmp_path / "light" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_light_baseline_is_no_run(base: Path, tmp_path: Path):
    save_baseline(base, tmp_path / "light")
    with pytest.raises(UserError, match="given a light baseline, expected the folder of a run"):
        compare(base, tmp_path / "light")
    with pytest.raises(UserError, match="given a light baseline"):
        save_baseline(tmp_path / "light", tmp_path / "lighter")
    with pytest.raises(UserError, match="own folder"):
        save_baseline(base, base)


def test_scores_of_another_run_are_refused(base: Path, tmp_path: Path):
    run = write_run(tmp_path / "run", shift={"ssim": -0.2})
    save_baseline(base, tmp_path / "light")
    save_baseline(run, tmp_path / "other")
    file = "per_image.safetensors"
    (tmp_path / "light" / file).write_bytes((tmp_path / "other" / file).read_bytes())
    with pytest.raises(
        UserError, match=r"ssim of ddim .*: given 12 scores of mean .*, expected 12"
    ):
        judge(tmp_path / "light", run)


def test_without_the_text_network_intervals_decide(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def away(net: str, device: str) -> Any:
        raise NotAvailable("weights not available offline")

    run = write_run(tmp_path / "run")
    monkeypatch.setattr("sunbench.bench.paired_scores.clip_extractor", away)
    comparison = judge(base, run)
    assert comparison.exit_code() == 0
    why = {v.why for v in comparison.verdicts if v.row.metric.startswith("clip_score")}
    assert why == {"by intervals"}


# ------------------------------------------------------------------------------ tolerances


def test_every_metric_has_a_tolerance():
    from sunbench.metrics.registry import METRICS

    table = load_tolerances()
    for name in METRICS:
        assert tolerance_of(name, table).limit(1.0) > 0


def test_own_tolerances_go_over_the_packages(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text('["fd[zoo-clip]"]\nabsolute = 5\nrelative = 0.5\n')
    table = load_tolerances(file)
    assert tolerance_of("fd[zoo-clip]", table).limit(-2.0) == 6.0
    assert tolerance_of("fd[dinov2/vitl14]", table) == load_tolerances()["fd"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fd = 3", "expected absolute, relative"),
        ("[fd]\nabsolute = 1", "expected absolute, relative"),
        ("[fd]\nabsolute = -1\nrelative = 0", "expected absolute, relative"),
        ("[fd]\nabsolute = true\nrelative = 0", "expected absolute, relative"),
        ("[fd]\nabsolute = nan\nrelative = 0", "expected absolute, relative"),
        ("[fdd]\nabsolute = 1\nrelative = 0", "unknown metric 'fdd'; did you mean"),
        ("[fd", "is not TOML"),
        ("[fd] # \xff", r"mine\.toml is not TOML"),
        ("a = " + "[" * 5000, "nested too deeply"),
    ],
)
def test_bad_tolerances(tmp_path: Path, text: str, message: str):
    file = tmp_path / "mine.toml"
    file.write_text(text, "latin-1")
    with pytest.raises(UserError, match=message):
        load_tolerances(file)


# ------------------------------------------------------------------------------ page and command


def test_the_page_and_githubs_summary(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    run = write_run(tmp_path / "run", shift={"ssim": -0.02}, dtype="<b>|x")
    comparison = judge(base, run)
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    page = write_comparison(comparison, run).read_text()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "nowhere/summary.md"))
    assert write_comparison(comparison, run).read_text() == page
    assert "cannot write GITHUB_STEP_SUMMARY" in caplog.text
    assert summary.read_text() == "before\n" + page
    assert page == comparison_markdown(comparison)
    lines = page.splitlines()
    assert lines[2].startswith("Worse: 1 of 13 rows, first ssim of ddim at 4 steps on tiny (-0.02")
    table = [x for x in lines if x.startswith("| ")]
    assert table[2].startswith("| worse | tiny · ddim · 4 steps | ssim | ")
    assert len(table) == 2 + 13
    assert "- dtype: float32 -> &lt;b>|x (tiny · " in page


@pytest.fixture
def sunbench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sunbench", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return run


def test_the_command(base: Path, tmp_path: Path, sunbench: Any):
    run = write_run(tmp_path / "run", shift={"ssim": -0.2}, methods=("ddim",))
    code, out, err = sunbench("baseline", "save", base, tmp_path / "light")
    assert (code, err) == (0, "")
    code, out, err = sunbench("compare", tmp_path / "light", run)
    assert (code, err) == (1, "")
    assert "Worse: 1 of 13 rows" in out
    assert (run / "tables/compare.md").exists()
    less = write_run(tmp_path / "less", methods=("ddim",))
    assert sunbench("compare", base, less)[0] == 2
    assert sunbench("compare", base, less, "--allow-missing")[0] == 0
    loose = tmp_path / "loose.toml"
    loose.write_text("[ssim]\nabsolute = 1\nrelative = 0\n")
    assert sunbench("compare", base, run, "--allow-missing", "--tolerances", loose)[0] == 0


def other_version(file: Path) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema_version": 7}))


def break_run(run: Path, how: str) -> None:
    cell = next((run / "cells").iterdir())
    match how:
        case "version":
            other_version(run / "results.json")
        case "unfinished":
            (run / "results.json").unlink()
        case "shard":
            (cell / "shard-00002.json").unlink()
        case "cell":
            (cell / "cell.json").unlink()
        case "cut":
            (run / "run.json").write_text('{"schema_version": 1, "mod')
        case "strange":
            (run / "run.json").write_text('{"schema_version": 3}')


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("version", "given schema_version 7, expected 3"),
        ("unfinished", "not finished"),
        ("shard", "shard 2 is missing or broken"),
        ("cell", "cell.json is missing"),
        ("cut", "run.json is broken or cut short"),
        ("strange", "run.json: given no request, no environment, no models"),
    ],
)
@pytest.mark.parametrize("side", ["baseline", "run"])
def test_a_defect_is_one_line(
    base: Path, tmp_path: Path, sunbench: Any, side: str, how: str, message: str
):
    run = write_run(tmp_path / "run")
    break_run(base if side == "baseline" else run, how)
    code, out, err = sunbench("compare", base, run)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_another_cache_is_one_line(
    base: Path, tmp_path: Path, sunbench: Any, monkeypatch: pytest.MonkeyPatch
):
    run = write_run(tmp_path / "run")
    monkeypatch.setenv("SUNBENCH_CACHE", str(tmp_path / "elsewhere"))
    for words in (("baseline", "save", run, tmp_path / "light"), ("compare", base, run)):
        code, out, err = sunbench(*words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "name the cache that the run was made with in SUNBENCH_CACHE" in err


@pytest.mark.parametrize("how", ["version", "cut"])
def test_a_defect_of_a_light_baseline_is_one_line(
    base: Path, tmp_path: Path, sunbench: Any, how: str
):
    light = tmp_path / "light"
    save_baseline(base, light)
    file = light / "per_image.safetensors"
    data = file.read_bytes()
    old, new = b'schema_version\\": 1', b'schema_version\\": 7'
    assert old in data
    file.write_bytes(data.replace(old, new) if how == "version" else data[:40])
    code, out, err = sunbench("compare", light, base)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert {"version": "schema_version 7, expected 1", "cut": "broken safetensors file"}[how] in err


def test_a_run_still_going_is_one_line(base: Path, tmp_path: Path, sunbench: Any):
    import subprocess

    run = write_run(tmp_path / "run")
    script = (
        "import sys; from pathlib import Path; from sunbench.store import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).lock():\n    print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", script, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        code, out, err = sunbench("compare", base, run)
        other.communicate(b"\n")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(run) in err


def test_different_n_is_one_line(base: Path, tmp_path: Path, sunbench: Any):
    code, out, err = sunbench("compare", base, write_run(tmp_path / "run", n=5))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "images: 10, the baseline's 12" in err
