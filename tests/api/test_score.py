"""Any two sets of images: pairing, intervals, sources, mistakes, bounded memory."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from png_bomb import png_bomb

import sunbench
from sunbench.api import scores as module
from sunbench.api.images import open_images
from sunbench.api.prompts import read_prompts
from sunbench.cli import main
from sunbench.errors import UserError
from sunbench.metrics.estimate import mean_estimate
from sunbench.metrics.psnr import psnr
from sunbench.metrics.ssim import ssim

N, SIDE = 12, 32


@pytest.fixture(scope="module")
def pixels() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8)
    noise = rng.integers(-20, 21, a.shape)
    return np.clip(a + noise, 0, 255).astype(np.uint8), a


def write_folder(folder: Path, images: np.ndarray, names: list[str] | None = None) -> Path:
    folder.mkdir()
    for k, image in enumerate(images):
        file = folder / f"{names[k] if names else f'{k:03}'}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(file)
    return folder


def png(image: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    return data.getvalue()


def expected(a: np.ndarray, b: np.ndarray, clusters: list[str]) -> dict[str, Any]:
    x, y = (torch.from_numpy(t).permute(0, 3, 1, 2) for t in (a, b))
    scores = {"ssim": ssim(x, y).numpy(), "psnr": psnr(x, y).numpy()}
    return {name: mean_estimate(s, np.array(clusters)) for name, s in scores.items()}


def check(scores: Any, estimates: dict[str, Any]) -> None:
    assert scores.paired
    assert scores.n == N
    for name, e in estimates.items():
        one = scores[name]
        assert one.value == pytest.approx(e.value, rel=1e-5)
        assert (one.low, one.high) == pytest.approx((e.low, e.high), rel=1e-5)
        assert one.low < one.value < one.high


def test_folders_are_paired_by_name_whatever_their_order(pixels: Any, tmp_path: Path):
    a, b = pixels
    names = [f"x/{chr(97 + k)}" for k in range(N)]
    mine = write_folder(tmp_path / "a", a, names)
    theirs = write_folder(tmp_path / "b", b[::-1], names[::-1])
    check(sunbench.score(mine, theirs), expected(a, b, names))


def test_arrays_tensors_and_parquet_say_the_same(pixels: Any, tmp_path: Path):
    a, b = pixels
    ids = [str(k) for k in range(N)]
    estimates = expected(a, b, ids)
    check(sunbench.score(a, b), estimates)
    check(sunbench.score(torch.from_numpy(a).permute(0, 3, 1, 2), b), estimates)
    for name, images in (("a", a), ("b", b)):
        rows = [{"bytes": png(image), "path": None} for image in images]
        table = pa.table({"id": ids, "image": rows})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=5)
    check(sunbench.score(tmp_path / "a.parquet", str(tmp_path / "b.parquet")), estimates)
    check(sunbench.score(tmp_path / "a.parquet", b), estimates)


def test_images_of_a_prompt_are_resampled_together(pixels: Any):
    a, b = pixels
    prompts = [f"prompt {k // 4}" for k in range(N)]
    scores = sunbench.score(a, b, prompts)
    check(scores, expected(a, b, prompts))
    assert scores.clusters == 3
    by_id = sunbench.score(a, b, {str(k): p for k, p in enumerate(prompts)})
    assert by_id == scores


def test_a_network_metric_and_one_that_needs_prompts(pixels: Any):
    a, b = pixels
    names = ("fd[zoo-clip]", "cos[zoo-clip]", "clip_score[zoo-clip]")
    scores = sunbench.score(a, b, metrics=names)
    assert scores["fd[zoo-clip]"].value >= 0
    assert -1 <= scores["cos[zoo-clip]"].value <= 1
    assert scores["clip_score[zoo-clip]"].value is None
    assert scores["clip_score[zoo-clip]"].reason == "no prompts were given"
    full = sunbench.score(a, b, ["a red ball"] * N, metrics=names[2:])
    assert full["clip_score[zoo-clip]"].value is not None
    same = sunbench.score(b, b, metrics=names[:2])
    assert same["cos[zoo-clip]"].value == pytest.approx(1, abs=1e-6)
    assert same["fd[zoo-clip]"].value == pytest.approx(0, abs=1e-6)


def test_sets_with_other_names_are_not_paired(pixels: Any, tmp_path: Path):
    a, b = pixels
    mine = write_folder(tmp_path / "a", a, [f"a{k}" for k in range(N)])
    theirs = write_folder(tmp_path / "b", b, [f"b{k}" for k in range(N)])
    scores = sunbench.score(mine, theirs, metrics=["fd[zoo-clip]"])
    assert not scores.paired
    with pytest.raises(UserError, match="given paired metric ssim, expected sets with the same"):
        sunbench.score(mine, theirs, metrics=["ssim"])


def test_the_table_has_a_line_per_metric(pixels: Any):
    table = sunbench.score(*pixels).table()
    assert list(table["metric"]) == ["ssim", "psnr"]
    assert (table["low"] < table["high"]).all()


def mistakes(a: np.ndarray, b: np.ndarray, folder: Path) -> list[tuple[Any, Any, str]]:
    write_folder(folder / "half", a, [f"{k:03}" if k < 5 else f"other{k}" for k in range(N)])
    write_folder(folder / "whole", b)
    Image.fromarray(a[0]).save((folder / "whole2").mkdir() or folder / "whole2/x.jpg")
    (folder / "empty").mkdir()
    (folder / "bad.parquet").write_bytes(b"PAR1 no")
    pq.write_table(pa.table({"pixels": [1]}), folder / "none.parquet")
    write_folder(folder / "mixed", a[:2])
    Image.new("RGB", (9, 9)).save(folder / "mixed/001.png")
    write_folder(folder / "broken", a)
    (folder / "broken/003.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    write_folder(folder / "bomb", a)
    (folder / "bomb/003.png").write_bytes(png_bomb(60_000))
    return [
        (a, b[:-1], "expected the same number"),
        (folder / "half", folder / "whole", "given 5 of 12 names that both sets hold"),
        (folder / "whole2", folder / "whole", "lossy"),
        (folder / "empty", folder / "whole", "given no images"),
        (folder / "nowhere", folder / "whole", "expected a folder of images or a .parquet"),
        (folder / "bad.parquet", b, "expected a Parquet file"),
        (folder / "none.parquet", b, "expected one named image"),
        (a.astype(np.float32), b, "expected uint8"),
        (a[:, :, :16], b, "expected one size"),
        (folder / "mixed", a[:2], "expected the same number|expected all|expected one size"),
        (folder / "broken", folder / "whole", "003.png: expected an image"),
        (folder / "bomb", folder / "whole", "003.png: expected an image: .* pixels"),
    ]


def test_a_mistake_is_one_line(pixels: Any, tmp_path: Path):
    for images, reference, message in mistakes(*pixels, tmp_path):
        with pytest.raises(UserError, match=message) as caught:
            sunbench.score(
                images, reference, metrics=["fd[zoo-clip]"] if "mixed" in str(images) else None
            )
        assert "\n" not in str(caught.value)


def test_few_images_are_in_memory_at_once(pixels: Any, monkeypatch: pytest.MonkeyPatch):
    a, b = pixels
    monkeypatch.setattr(module, "PIXELS", 3 * SIDE * SIDE)
    seen = [
        len(mine) for mine, _ in module._blocks(open_images(a, "a"), open_images(b, "b"), range(N))
    ]
    assert seen == [3, 3, 3, 3]
    check(sunbench.score(a, b), expected(a, b, [str(k) for k in range(N)]))


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("p.csv", b"file_name,text\n0.png,\xff\n", "no UTF-8"),
        ("p.csv", b"", "holds 0 prompts"),
        ("p.csv", b"what,text\n0,a\n", "expected one of id, file_name"),
        ("p.csv", b"id;text\n0; \n", "given an empty text"),
        ("p.jsonl", b"[]\n", "expected a JSON object"),
        ("p.parquet", b"PAR1", "no whole Parquet"),
        ("p.txt", b"a\n", "expected one of .csv"),
    ],
)
def test_prompts_that_are_wrong_are_one_line(tmp_path: Path, name: str, content: bytes, line: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=line) as caught:
        read_prompts(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_the_command(pixels: Any, tmp_path: Path, monkeypatch: Any, capsys: Any):
    a, b = pixels
    mine, theirs = write_folder(tmp_path / "a", a), write_folder(tmp_path / "b", b)
    table = tmp_path / "prompts.csv"
    table.write_text("file_name,text\n" + "".join(f"{k:03}.png,p{k // 4}\n" for k in range(N)))
    assert read_prompts(table)["011"] == "p2"

    def run(*words: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sunbench", "score", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out, printed.err

    code, out, err = run(mine, theirs, "--prompts", table)
    assert (code, err) == (0, "")
    assert "12 images of 3 prompts, paired by name" in out
    code, out, _ = run(mine, theirs, "--json")
    document = json.loads(out)
    assert [s["metric"] for s in document["scores"]] == ["ssim", "psnr"]
    code, out, err = run(mine, tmp_path / "nowhere")
    assert (code, out, err.count("\n")) == (2, "", 1)
