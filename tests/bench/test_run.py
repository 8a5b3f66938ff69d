"""A run end to end: what it finds, and that it makes nothing twice."""

from __future__ import annotations

import csv
import importlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sunbench
from sunbench.bench import finished
from sunbench.bench.clock import Clock
from sunbench.bench.verify import verify_run
from sunbench.errors import UserError
from sunbench.metrics import NotAvailable
from sunbench.sampling import ImageId, image_generator, noise_hash
from sunbench.store import CellStore, RunFolder

METRICS = ["fd[zoo-clip]", "kid[zoo-clip]", "clip_score[zoo-clip]", "perceptual[zoo-clip]"]
METRICS += ["ssim", "psnr", "cos[zoo-clip]", "latent_cos"]
generate_module = importlib.import_module("sunbench.sampling.generate")


def never(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("a sampler was touched")


@pytest.fixture
def no_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sunbench.bench.runner.generate", never)


def rows_of(lab: Any, name: str = "run") -> list[Any]:
    return RunFolder(lab.out / name).read_results()


def values(lab: Any, name: str = "run") -> dict[tuple[str, int, str], tuple[Any, ...]]:
    return {
        (r.role, r.method, r.steps, r.metric): (r.value, r.low, r.high) for r in rows_of(lab, name)
    }


def stamps(folder: Path) -> dict[Path, int]:
    return {f: f.stat().st_mtime_ns for f in folder.rglob("shard-*") if f.is_file()}


# ------------------------------------------------------------------------------ results


def test_rows_of_reference_floor_and_candidates(done: Any):
    rows = rows_of(done)
    measured: dict[str, list[str]] = {}
    for r in rows:
        if r.steps != 1001:
            measured.setdefault((r.role, r.method), []).append(r.metric)
    assert measured == {
        ("reference", "dpm++"): ["clip_score[zoo-clip]"],
        ("floor", "dpm++"): METRICS,
        ("candidate", "ddim"): METRICS,
        ("candidate", "dpm++"): METRICS,
    }


def test_numbers_have_intervals_nfe_and_n(done: Any):
    for r in rows_of(done):
        if r.steps == 1001:
            continue
        assert r.low <= r.value <= r.high, r.name
        assert r.n == 20
        assert r.nfe == 2 * r.steps
        assert r.protocol


def test_what_cannot_run_says_why_and_the_run_goes_on(done: Any):
    skipped = [r for r in rows_of(done) if r.steps == 1001]
    assert len(skipped) == 2 * len(METRICS)
    assert {r.reason for r in skipped} == {"1001 steps asked, the schedule has 1000"}
    assert {r.value for r in skipped} == {None}
    assert "1001 steps asked" in done.tables()["results.md"].decode()


def test_numbers_come_from_the_stored_features(done: Any):
    """ssim's mean by hand: every shard's stored scores, in float64."""
    store = done.cell("ddim")
    measured = values(done)
    for metric in ("ssim", "psnr"):
        name = next(n for n in store.feature_names(0) if n.endswith(f"-{metric}"))
        scores = np.concatenate([store.read_features(k, name) for k in store.shards()])
        assert scores.shape == (20,)
        mean = scores.astype(np.float64).mean()
        assert measured["candidate", "ddim", 2, metric][0] == pytest.approx(mean, rel=1e-12)


def test_candidates_start_from_the_references_noise(done: Any):
    reference, candidate = done.reference(), done.cell("dpm++")
    prompts = done.request().n_prompts
    seen = []
    for k in reference.shards():
        for a, b in zip(reference.read_rows(k), candidate.read_rows(k), strict=True):
            assert (a.index, a.prompt_id, a.seed, a.noise_hash) == (
                b.index,
                b.prompt_id,
                b.seed,
                b.noise_hash,
            )
            seen.append((a.prompt_id, a.seed))
    assert len(set(seen)) == len(seen) == 2 * prompts


def test_floor_has_other_seeds_and_so_other_noise(done: Any):
    reference, floor = done.reference(), done.reference(floor=True)
    assert floor.content["seeds"] == [s + 1_000_000 for s in reference.content["seeds"]]
    hashes = [
        {r.noise_hash for k in s.shards() for r in s.read_rows(k)} for s in (reference, floor)
    ]
    assert [len(h) for h in hashes] == [20, 20]
    assert not hashes[0] & hashes[1]


def test_stored_noise_hash_is_that_of_prompt_and_seed(done: Any):
    import torch

    row = done.cell("ddim").read_rows(2)[1]
    noise = torch.randn((4, 8, 8), generator=image_generator(ImageId(row.prompt_id, row.seed)))
    assert row.noise_hash == noise_hash(noise)


def test_files_of_a_run(done: Any):
    folder = done.out / "run"
    tables = {f.name for f in (folder / "tables").iterdir()}
    assert tables == {
        "results.md",
        "results.csv",
        "results.tex",
        "times.md",
        "times.csv",
        "pairs.csv",
        "set_pairs.csv",
        "finite_n.csv",
        "training_requirements.csv",
        "summary.md",
        "summary.csv",
    }
    assert not (folder / "texts").exists()
    assert not (folder / "lock").exists()
    document = json.loads((folder / "run.json").read_text())
    assert document["request"]["images"] == 20
    assert document["new_shards"] == 24  # reference, floor, two candidates
    assert set(document["models"][0]["weights"]) >= {"unet", "vae", "text_encoder", "tokenizer"}


def test_csv_holds_what_results_json_holds(done: Any):
    records = list(csv.DictReader(io.StringIO(done.tables()["results.csv"].decode())))
    rows = rows_of(done)
    assert len(records) == len(rows)
    for record, row in zip(records, rows, strict=True):
        assert record["metric"] == row.metric
        assert (float(record["value"]) if record["value"] else None) == row.value


def test_pairs_compare_methods_at_equal_steps(done: Any):
    pairs = RunFolder(done.out / "run").read_results_document().pairs
    assert {(p.a, p.b, p.steps, p.n) for p in pairs} == {("ddim", "dpm++", 2, 10)}
    assert {p.metric for p in pairs} == set(METRICS[3:])
    assert all(0 <= p.low <= p.a_closer <= p.high <= 1 for p in pairs)
    assert all(p.difference_low <= p.difference <= p.difference_high for p in pairs)
    assert all(0 <= p.p_adjusted <= 1 and p.detectable > 0 for p in pairs)
    assert all(p.distinguishable == (p.p_adjusted < 0.05) for p in pairs)
    assert {type(p.equivalent) for p in pairs} == {bool}


def test_distances_are_relative_to_the_floor(done: Any):
    """ssim by hand: (1 - value) / (1 - floor), and the interval holds it."""
    valued = [r for r in rows_of(done) if r.steps != 1001]
    rows = {(r.method, r.metric): r for r in valued if r.role == "candidate"}
    floors = {r.metric: r for r in valued if r.role == "floor"}
    for method in ("ddim", "dpm++"):
        one, floor = rows[method, "ssim"], floors["ssim"]
        assert one.relative == pytest.approx((1 - one.value) / (1 - floor.value), rel=1e-12)
        assert one.relative_low <= one.relative <= one.relative_high
    relative = {metric for (_, metric), r in rows.items() if r.relative is not None}
    assert relative == {m for m in METRICS if not m.startswith(("kid", "clip_score"))}


def test_sets_say_what_they_owe_to_n(done: Any):
    document = RunFolder(done.out / "run").read_results_document()
    measured = {(p.a, p.b, p.metric) for p in document.set_pairs}
    assert measured == {("ddim", "dpm++", "fd[zoo-clip]")}
    assert all(p.order_holds in (True, False) for p in document.set_pairs)
    rows = document.finite_n
    assert {(r.role, r.metric) for r in rows} == {
        (role, "fd[zoo-clip]") for role in ("floor", "candidate")
    }
    for r in rows:
        assert r.infinity == pytest.approx(2 * r.value - r.half)
        assert r.mean_bias > 0


def test_latents_are_kept_and_compared(done: Any):
    latents = done.reference().read_features(0, "latents")
    assert latents.dtype == np.float16
    assert latents.shape == (4, 4, 8, 8)
    mine = done.cell("ddim").read_features(0, "latents")
    name = next(n for n in done.cell("ddim").feature_names(0) if n.endswith("latent_cos"))
    x, y = (z.reshape(4, -1).astype(float) for z in (mine, latents))
    cosines = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    np.testing.assert_allclose(done.cell("ddim").read_features(0, name), cosines, rtol=1e-9)


# ------------------------------------------------------------------------------ again


def test_second_run_makes_nothing_and_changes_no_byte(done: Any, no_sampling: None):
    everything = [f for f in (done.out / "run").rglob("*") if f.is_file()]
    before = {f: f.read_bytes() for f in everything}
    times = stamps(done.cache.parent)
    outcome = done.run()
    assert outcome.new_shards == 0
    assert {f: f.read_bytes() for f in everything} == before
    assert stamps(done.cache.parent) == times


def test_order_of_methods_changes_no_number(done: Any, no_sampling: None):
    before = values(done)
    done.run(methods=("dpm++", "ddim"))
    assert values(done) == before


def test_run_json_says_what_was_last_asked(done: Any, no_sampling: None):
    """A second request in the same folder once left the first one's run.json beside its tables."""
    done.run(methods=("dpm++",))
    document = json.loads((done.out / "run/run.json").read_text())
    assert document["request"]["methods"] == ["dpm++"]
    cells = [c["content"]["method"] for m in document["models"] for c in m["cells"]]
    assert "ddim" not in cells


def test_another_run_shares_the_reference(done: Any):
    outcome = done.run("other", methods=("unipc",), steps=(1,))
    assert outcome.new_shards == 6


def test_corrupt_shard_alone_is_sampled_again(done: Any, caplog: pytest.LogCaptureFixture):
    before, times = done.tables(), stamps(done.cache.parent)
    broken = done.cell("ddim").folder / "shard-00002.parquet"
    flip(broken)
    assert done.run().new_shards == 1
    assert done.tables() == before
    assert str(broken) in caplog.text
    assert broken.with_name(broken.name + ".broken").exists()
    changed = {
        f.name.split(".")[0] for f, t in stamps(done.cache.parent).items() if times.get(f) != t
    }
    assert changed == {"shard-00002"}


def test_corrupt_reference_shard_alone_is_sampled_again(done: Any):
    before = done.tables()
    candidate = stamps(done.out)
    flip(done.reference().folder / "shard-00001.parquet")
    assert done.run().new_shards == 1
    assert done.tables() == before
    assert stamps(done.out) == candidate


def test_missing_feature_file_is_sampled_again(done: Any):
    before = done.tables()
    next(done.cell("dpm++").folder.glob("shard-00004.embed-*")).unlink()
    assert done.run().new_shards == 1
    assert done.tables() == before


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def test_metric_added_later_touches_no_sampler(
    done: Any, lab: Any, monkeypatch: pytest.MonkeyPatch
):
    """Its numbers are those of a run that had it from the start."""
    whole = values(done)
    lab.run("late", methods=("ddim",), steps=(2,), metrics=("psnr",))
    monkeypatch.setattr("sunbench.bench.runner.generate", never)
    added = ("psnr", "perceptual[zoo-clip]", "clip_score[zoo-clip]", "fd[zoo-clip]")
    outcome = lab.run("late", methods=("ddim",), steps=(2,), metrics=added)
    assert outcome.new_shards == 0
    late = values(lab, "late")
    assert {m for _, _, _, m in late} == set(added)
    assert late == {k: whole[k] for k in late}


def test_metric_cannot_be_added_without_pictures(lab: Any):
    settings = {"methods": ("ddim",), "steps": (1,), "floor": False, "images": 4, "seeds": (0,)}
    lab.run(metrics=("ssim",), keep_images=False, **settings)
    with pytest.raises(UserError, match="images were not kept"):
        lab.run(metrics=("ssim", "clip_score[zoo-clip]"), keep_images=False, **settings)


def test_batch_size_does_not_change_the_tables(done: Any, lab: Any, monkeypatch: Any):
    monkeypatch.setenv("SUNBENCH_CACHE", str(lab.cache.parent / "other-cache"))
    lab.run("threes", batch=3)
    whole, threes = values(done), values(lab, "threes")
    assert threes.keys() == whole.keys()
    for place, estimate in whole.items():
        if estimate[0] is not None:
            scale = max(abs(x) for x in estimate)
            np.testing.assert_allclose(
                threes[place], estimate, atol=2e-3 * scale, err_msg=str(place)
            )
    a, b = (
        done.cell("ddim").read_rows(0, images=True),
        lab.cell("ddim", "threes").read_rows(0, True),
    )
    assert [r.noise_hash for r in a] == [r.noise_hash for r in b]
    gap = np.stack([np.abs(x.image.astype(int) - y.image) for x, y in zip(a, b, strict=True)])
    assert gap.max() <= 1


# ------------------------------------------------------------------------------ trouble


def test_black_pictures_are_counted_and_break_no_metric(lab: Any):
    outcome = lab.run(models=(str(lab.world.black),), steps=(1,), methods=("ddim",), images=8)
    assert outcome.black == 3 * 8
    assert json.loads((lab.out / "run/run.json").read_text())["black_images"] == 24
    measured = values(lab)
    assert measured["candidate", "ddim", 1, "psnr"][0] == 100
    assert measured["candidate", "ddim", 1, "ssim"][0] == pytest.approx(1)
    assert measured["candidate", "ddim", 1, "fd[zoo-clip]"][0] == pytest.approx(0, abs=1e-6)


def test_one_black_picture_is_marked_in_its_row(lab: Any, monkeypatch: pytest.MonkeyPatch):
    real = generate_module.decode_latents

    def first_is_black(pipeline: Any, latents: Any) -> Any:
        images = real(pipeline, latents)
        images[0] = 0
        return images

    monkeypatch.setattr(generate_module, "decode_latents", first_is_black)
    settings = {"steps": (1,), "methods": ("ddim",), "images": 8, "floor": False}
    assert lab.run(metrics=("ssim",), **settings).black == 4
    rows = [r for k in range(2) for r in lab.cell("ddim").read_rows(k)]
    assert [r.index for r in rows if r.black] == [0, 1]


def test_errors_of_the_writer_stop_the_run_and_it_resumes(
    done: Any, lab: Any, monkeypatch: pytest.MonkeyPatch
):
    expected = done.tables()
    monkeypatch.setenv("SUNBENCH_CACHE", str(lab.cache.parent / "empty-cache"))
    write, calls = CellStore.write_shard, []

    def full(self: CellStore, *args: Any) -> None:
        calls.append(args[0])
        if len(calls) == 7:
            raise UserError("disk full while writing")
        write(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(CellStore, "write_shard", full)
        with pytest.raises(UserError, match="disk full"):
            lab.run("stopped")
    assert not (lab.out / "stopped/lock").exists()
    assert not (lab.out / "stopped/results.json").exists()
    assert lab.run("stopped").new_shards == 18
    assert lab.tables("stopped") == expected


def test_a_network_out_of_reach_is_a_reason(done: Any, monkeypatch: pytest.MonkeyPatch):
    def offline(name: str, device: str) -> Any:
        raise NotAvailable("weights not available offline: inception")

    monkeypatch.setattr("sunbench.bench.feature_extractors.load_network", offline)
    done.run("other", metrics=("fid", "ssim"), methods=("ddim",), steps=(2,))
    measured = {r.metric: r for r in rows_of(done, "other") if r.method == "ddim"}
    assert measured["fid"].reason == "weights not available offline: inception"
    assert measured["ssim"].value is not None


def test_two_models_of_one_name_are_refused(lab: Any, tmp_path: Path):
    """Their lines once overwrote each other in the tables."""
    twin = tmp_path / "twin.toml"
    twin.write_text(lab.world.card.read_text().replace("3.0", "4.0"))
    with pytest.raises(UserError, match="two models named 'tiny'"):
        lab.run(models=(str(lab.world.card), str(twin)))


def test_phases_add_up(done: Any):
    document = json.loads((done.out / "run/run.json").read_text())
    assert 0 < sum(document["phases"].values()) <= document["seconds"] * 1.02
    assert {"sampler", "VAE decoder", "text encoder", "feature networks"} <= document[
        "phases"
    ].keys()


def test_clock_adds_the_time_of_a_block_that_fails():
    clock = Clock()
    with pytest.raises(KeyError), clock.phase("x"):
        raise KeyError
    assert clock.seconds["x"] > 0


# ------------------------------------------------------------------------------ finished


QUICK: dict[str, Any] = {"methods": ("ddim",), "steps": (1,), "images": 4, "seeds": (0,)}


def forbid_networks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("sunbench.bench.planner.load", never)
    patch.setattr("sunbench.bench.run.FeatureExtractors.load", never)
    patch.setattr("sunbench.bench.run.evaluate", never)


def test_a_finished_run_asked_again_loads_no_network(lab: Any, monkeypatch: pytest.MonkeyPatch):
    first = lab.run(**QUICK)
    forbid_networks(monkeypatch)
    again = lab.run(**QUICK)
    assert (again.new_shards, first.new_shards) == (0, 3)
    assert (again.rows, again.pairs, again.black) == (first.rows, first.pairs, first.black)
    assert again.times == first.times
    assert again.requirements == first.requirements


@pytest.mark.parametrize(
    "change", ["request", "weights", "results", "run.json", "shard", "reference", "prompts"]
)
def test_whatever_changed_is_looked_at_again(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
):
    import shutil

    shutil.copytree(lab.world.card.parent / "tiny", tmp_path / "model")
    card, rows = tmp_path / "copy.toml", tmp_path / "rows.txt"
    text = lab.world.card.read_text().replace(str(lab.world.card.parent / "tiny"), "MODEL")
    shutil.copy(lab.world.prompts, rows)
    text = text.replace("MODEL", str(tmp_path / "model")).replace(str(lab.world.prompts), str(rows))
    card.write_text(text)
    request = QUICK | {"models": (str(card),)}
    lab.run(**request)
    (reference,) = [
        r
        for r in lab.cache.glob("reference_sets/*")
        if "1000000" not in (r / "cell.json").read_text()
    ]
    changed: dict[str, Path] = {
        "weights": next((tmp_path / "model/unet").glob("*.safetensors")),
        "results": lab.out / "run/results.json",
        "run.json": lab.out / "run/run.json",
        "shard": next((lab.out / "run").rglob("shard-00000.parquet")),
        "reference": reference / "shard-00000.parquet",
        "prompts": rows,
    }
    if change == "request":
        request["floor"] = False
    else:
        changed[change].write_bytes(changed[change].read_bytes() + b"a fox\n")
    forbid_networks(monkeypatch)
    with pytest.raises(AssertionError, match="a sampler was touched"):
        lab.run(**request)


def test_the_stamps_code_is_the_packages_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And not all of a checkout, where environments of a hundred thousand files lie."""
    (tmp_path / "other.py").write_text("")
    monkeypatch.setattr(
        sunbench.__spec__, "submodule_search_locations", [*sunbench.__path__, str(tmp_path)]
    )
    code = {Path(name) for name, _, _ in finished._code()}
    assert Path(finished.__file__) in code
    assert any(p.match("methods/recipes/sun.toml") for p in code)
    assert tmp_path / "other.py" not in code


def test_a_candidate_equal_to_the_reference_is_sampled_on_its_own(lab: Any):
    """It shares the reference's key and keeps its own images: what sampling again changes, 0."""
    lab.run("twin", methods=("ddim", "dpm++"), steps=(5,), images=8)
    rows = rows_of(lab, "twin")
    reference = next(r for r in rows if r.role == "reference")
    own = {r.metric: r for r in rows if r.role == "candidate" and r.method == "dpm++"}
    assert {r.key for r in own.values()} == {reference.key}
    assert (lab.out / "twin/cells" / reference.key).is_dir()
    assert (lab.cache / "reference_sets" / reference.key).is_dir()
    assert own["ssim"].value == pytest.approx(1)
    assert own["psnr"].value == 100
    assert own["perceptual[zoo-clip]"].value == pytest.approx(0, abs=1e-9)
    assert own["perceptual[zoo-clip]"].relative == pytest.approx(0, abs=1e-9)
    assert own["fd[zoo-clip]"].value == pytest.approx(0, abs=1e-6)
    assert verify_run(lab.out / "twin") == (4, [])
