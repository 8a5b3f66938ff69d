"""The images of a page: a seeded sample of prompts, and each method's best and worst ones."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sunbench.metrics.registry import find_metric
from sunbench.store import CellReader, ModelRecord, ShardRow, mispaired, readers
from sunbench.store.shared import settings_key

PROMPTS = 48  # prompts of a model in the sample
BLOCKS = 6  # runs of 64 images that they are drawn from, so that a big set is read in few places
BLOCK = 64
EXTREMES = 6  # best and worst prompts of a method
SIDES = (256, 192, 128, 96, 64)  # pixels; the largest that fits is taken
BUDGET_BYTES = 12_000_000  # of all images of a page, before base64
MOST_BYTES = 18_000_000


@dataclass
class Album:
    """Images as data URIs by id; refuses more than MOST_BYTES."""

    side: int = SIDES[0]
    images: dict[str, str] = field(default_factory=dict)
    bytes: int = 0
    full: bool = False

    def add(self, name: str, image: NDArray[np.uint8]) -> str | None:
        """Keep an image (H, W, 3) and return its id, or None when the page is full."""
        if name in self.images:
            return name
        data = thumbnail(image, self.side)
        if self.bytes + len(data) > MOST_BYTES:
            self.full = True
            return None
        self.bytes += len(data)
        self.images[name] = "data:image/webp;base64," + base64.b64encode(data).decode()
        return name


@dataclass(frozen=True)
class Wanted:
    """What one model's gallery is made of, before an image is read."""

    number: int
    reference: CellReader
    candidates: tuple[CellReader, ...]
    sample: tuple[int, ...]
    scores: tuple[NDArray[np.float64], ...]
    extremes: tuple[tuple[list[int], list[int]], ...]

    def indices(self, c: int | None) -> set[int]:
        """Images needed of candidate c, or of the reference."""
        extremes = self.extremes if c is None else self.extremes[c : c + 1]
        return set(self.sample).union(*(best + worst for best, worst in extremes))

    @property
    def count(self) -> int:
        """How many images that is."""
        return sum(len(self.indices(c)) for c in (None, *range(len(self.candidates))))


def thumbnail(image: NDArray[np.uint8], side: int) -> bytes:
    """Lossless WebP of an image, made smaller where its longer side exceeds ``side``."""
    reduced = Image.fromarray(image)
    if max(reduced.size) > side:
        reduced.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    reduced.save(out, "WEBP", lossless=True, quality=20, method=2)
    return out.getvalue()


# ------------------------------------------------------------------------------ what to show


def sample(images: int, seeds: int, prompts: int = PROMPTS) -> tuple[int, ...]:
    """Image numbers of a seeded sample of prompts, one image per prompt, from a few blocks."""
    random = np.random.default_rng(0)
    blocks = -(-images // BLOCK)
    chosen = np.sort(random.choice(blocks, min(BLOCKS, blocks), replace=False))
    each = -(-prompts // len(chosen))
    out: dict[int, int] = {}
    for b in chosen:
        numbers = np.arange(b * BLOCK, min((b + 1) * BLOCK, images))
        firsts = [int(i) for i in random.permutation(numbers) if i // seeds not in out]
        for i in firsts:
            if sum(b * BLOCK <= j < (b + 1) * BLOCK for j in out.values()) < each:
                out.setdefault(i // seeds, i)
    return tuple(sorted(out.values())[:prompts])


def extremes(scores: NDArray[np.float64], seeds: int) -> tuple[list[int], list[int]]:
    """Image numbers with the smallest and the largest scores, each prompt once."""
    order = [int(i) for i in np.argsort(scores, kind="stable") if np.isfinite(scores[i])]
    best = _each_prompt_once(order, seeds)
    worst = _each_prompt_once(order[::-1], seeds)
    count = min(EXTREMES, len(best) // 2)
    return best[:count], worst[:count]


def _each_prompt_once(order: Iterable[int], seeds: int) -> list[int]:
    first: dict[int, int] = {}
    for i in order:
        first.setdefault(i // seeds, i)
    return list(first.values())


def wanted(path: Path, model: ModelRecord, number: int, metric: str | None) -> Wanted | None:
    """What to show of a model of run.json; None when it has no reference.

    metric: the LPIPS whose scores order best and worst, or None.
    """
    own = readers(path, model)
    reference = next((c for c in own if c.role == "reference"), None)
    if reference is None:
        return None
    candidates = tuple(c for c in own if c.role == "candidate")
    prefix = _score_prefix(reference, metric)
    scores = tuple(c.scores(prefix) if prefix else np.full(c.images, np.nan) for c in candidates)
    ends = tuple(extremes(s, reference.seeds) for s in scores)
    chosen = sample(reference.images, reference.seeds)
    return Wanted(number, reference, candidates, chosen, scores, ends)


def _score_prefix(reference: CellReader, metric: str | None) -> str | None:
    """The stored feature that holds a paired distance of images."""
    choice = None if metric is None else find_metric(metric)
    if choice is None or choice.metric.reads != "images":
        return None
    return choice.feature_name("", settings_key(reference.record.content))


# ------------------------------------------------------------------------------ gathering


def gather(wants: Sequence[Wanted]) -> tuple[Album, list[dict[str, object]]]:
    """The images of all models, and per model what stands where (JSON-able)."""
    count = sum(w.count for w in wants)
    album = Album(_side(wants, count))
    return album, [_model(w, album) for w in wants]


def _side(wants: Sequence[Wanted], count: int) -> int:
    """The largest side at which that many images like the first few fit."""
    probes = [r.image for w in wants[:2] for r in w.reference.some(w.sample[:3])]
    some = [p for p in probes if p is not None]
    for side in SIDES:
        size = sum(len(thumbnail(p, side)) for p in some) / max(1, len(some))
        if size * count <= BUDGET_BYTES:
            return side
    return SIDES[-1]


def _model(want: Wanted, album: Album) -> dict[str, object]:
    rows = {r.index: r for r in want.reference.some(want.indices(None))}
    notes = _absence(want.reference, rows.values(), len(want.indices(None)), album)
    shown = {i: _put(album, want, "r", r) for i, r in rows.items()}
    placed: list[dict[int, str | None]] = []
    for c, cell in enumerate(want.candidates):
        held = list(cell.some(want.indices(c)))
        notes += _absence(cell, held, len(want.indices(c)), album)
        mine = [r for r in held if r.index not in rows or not mispaired([r], [rows[r.index]])]
        if len(mine) < len(held):
            notes.append(f"{cell.name}: images that started from other noise were left out.")
        placed.append({r.index: _put(album, want, str(c), r) for r in mine})
        rows.update({r.index: r for r in mine if r.index not in rows})
    if album.full:
        notes.append("Some images were left out to keep this page small.")
    return {
        "notes": notes,
        "cells": [c.name for c in want.candidates],
        "places": [[c.about.method, c.about.steps] for c in want.candidates],
        "reference": want.reference.name,
        "items": [_item(want, rows[i], shown, placed) for i in want.sample if i in rows],
        "extremes": [
            [[_extreme(want, rows, shown, placed, c, i) for i in end if i in rows] for end in ends]
            for c, ends in enumerate(want.extremes)
        ],
    }


def _put(album: Album, want: Wanted, cell: str, row: ShardRow) -> str | None:
    if row.image is None:
        return None
    return album.add(f"{want.number}.{cell}.{row.index}", row.image)


def _absence(cell: CellReader, rows: Iterable[ShardRow], asked: int, album: Album) -> list[str]:
    """Why images of a cell are not shown, in words."""
    rows = list(rows)
    if not rows:
        return [f"{cell.name}: its shards are gone or broken, so it has no images here."]
    if all(r.image is None for r in rows):
        return [f"{cell.name}: its images were not kept."]
    if len(rows) < asked:
        return [f"{cell.name}: {asked - len(rows)} of {asked} images are gone or broken."]
    return []


def _words(row: ShardRow) -> dict[str, object]:
    return {
        "prompt": row.prompt,
        "negative": row.negative,
        "id": row.prompt_id,
        "seed": row.seed,
        "index": row.index,
    }


def _score(want: Wanted, c: int, index: int) -> float | None:
    value = float(want.scores[c][index])
    return round(value, 6) if np.isfinite(value) else None


def _item(
    want: Wanted, row: ShardRow, shown: dict[int, str | None], placed: list[dict[int, str | None]]
) -> dict[str, object]:
    i = row.index
    images = [shown.get(i), *(p.get(i) for p in placed)]
    scores = [_score(want, c, i) for c in range(len(placed))]
    return {**_words(row), "images": images, "scores": scores}


def _extreme(
    want: Wanted,
    rows: dict[int, ShardRow],
    shown: dict[int, str | None],
    placed: list[dict[int, str | None]],
    c: int,
    i: int,
) -> dict[str, object]:
    images = [shown.get(i), placed[c].get(i)]
    return {**_words(rows[i]), "images": images, "score": _score(want, c, i)}
