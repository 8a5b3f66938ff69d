"""Any two sets of images compared: each metric with its interval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sunbench.api.images import ImageSet, Pixels, open_images
from sunbench.errors import NotAvailable, UserError
from sunbench.metrics.metric import CellFeatures, ImagePairMetric
from sunbench.metrics.networks import Network, load_network
from sunbench.metrics.registry import MetricChoice, find_metric

if TYPE_CHECKING:
    import pandas as pd

#: Pixels of the images that are in memory at once, and at least one image.
PIXELS = 16 * 512 * 512
#: Without networks and for paired sets; the features of Inception are for sets that aren't.
PAIRED = ("ssim", "psnr")
UNPAIRED = ("fid", "kid")


@dataclass(frozen=True)
class Score:
    """One metric of two sets: value, 95 % interval, or the reason why there is none."""

    metric: str
    value: float | None
    low: float | None
    high: float | None
    better: str
    reason: str = ""


@dataclass(frozen=True)
class Scores:
    """The scores of a set against a reference of ``n`` images; clusters: prompts behind them."""

    n: int
    clusters: int
    paired: bool
    scores: tuple[Score, ...]

    def __getitem__(self, metric: str) -> Score:
        """The score of a metric."""
        return next(s for s in self.scores if s.metric == metric)

    def table(self) -> pd.DataFrame:
        """A line per metric."""
        import pandas as pd

        return pd.DataFrame([asdict(s) for s in self.scores])


def score(
    images: Any,
    reference: Any,
    prompts: Sequence[str] | Mapping[str, str] | None = None,
    *,
    metrics: Sequence[str] | None = None,
    device: str = "cpu",
) -> Scores:
    """Compare two sets of images: metrics with 95 % intervals over prompts.

    images, reference: a folder of lossless images, a Parquet file with an ``image`` column, or a
    uint8 array (N, H, W, 3) or (N, 3, H, W). They are paired when their names or ids are the same
    (arrays: by position). prompts: of each image in the order of ``images``, or by id; images of
    one prompt are resampled together. metrics: as for `sunbench run`; by default SSIM and PSNR
    for paired sets, FID and KID for others, which need Inception's weights.
    Images are read one after the other, so memory does not grow with their number.

    Errors: UserError for sets of different size, half-matching names and unreadable images.
    """
    candidate, base = open_images(images, "images"), open_images(reference, "reference")
    order = _pairing(candidate, base)
    paired = order is not None
    choices = [find_metric(name) for name in metrics or (PAIRED if paired else UNPAIRED)]
    _check_choices(choices, paired)
    texts = _prompts(candidate, base, prompts)
    clusters = np.array([texts.get(i, i) for i in candidate.ids])
    work = _Work(candidate, base, order, choices, device)
    work.read()
    scores = [work.score(choice, clusters, texts) for choice in choices]
    return Scores(len(candidate.ids), len(set(clusters.tolist())), paired, tuple(scores))


def _pairing(candidate: ImageSet, base: ImageSet) -> list[int] | None:
    """Where each image's partner is in the reference; None where no name is the same."""
    place = {name: k for k, name in enumerate(base.ids)}
    common = [i for i in candidate.ids if i in place]
    if len(candidate.ids) != len(base.ids):
        raise UserError(
            f"given {len(candidate.ids)} images ({candidate.name}) and {len(base.ids)} reference"
            f" images ({base.name}), expected the same number: different N are never compared"
        )
    if not common:
        return None
    if len(common) < len(candidate.ids):
        alone = next(i for i in candidate.ids if i not in place)
        raise UserError(
            f"given {len(common)} of {len(candidate.ids)} names that both sets hold, expected all"
            f" or none; {alone!r} is not in {base.name}"
        )
    return [place[i] for i in candidate.ids]


def _check_choices(choices: Sequence[MetricChoice], paired: bool) -> None:
    for choice in choices:
        compares = choice.metric.compares
        if choice.metric.reads not in ("images", "embeddings"):
            raise UserError(f"given metric {choice.label}, expected one of images alone")
        if compares == "pairs" and not paired:
            raise UserError(
                f"given paired metric {choice.label}, expected sets with the same names"
            )


def _prompts(
    candidate: ImageSet, base: ImageSet, prompts: Sequence[str] | Mapping[str, str] | None
) -> dict[str, str]:
    """Prompts by id."""
    if prompts is None:
        return {**base.prompts, **candidate.prompts}
    if isinstance(prompts, Mapping):
        return dict(prompts)
    if len(prompts) != len(candidate.ids):
        raise UserError(
            f"given {len(prompts)} prompts, expected {len(candidate.ids)}, one per image"
        )
    return dict(zip(candidate.ids, prompts, strict=True))


class _Work:
    """One pass over both sets: paired scores at once, features of each network kept."""

    def __init__(
        self,
        candidate: ImageSet,
        base: ImageSet,
        order: list[int] | None,
        choices: Sequence[MetricChoice],
        device: str,
    ) -> None:
        self.candidate, self.base, self.device = candidate, base, device
        self.order = list(range(len(base.ids))) if order is None else order
        self.choices, self.networks = choices, dict[str, Network]()
        self.reasons: dict[str, str] = {}
        self.pair_scores: dict[str, list[NDArray[Any]]] = {}
        self.features: dict[tuple[str, str], list[NDArray[Any]]] = {}
        for choice in choices:
            self._load(choice)

    def _load(self, choice: MetricChoice) -> None:
        if choice.net is None or choice.net in self.networks:
            return
        try:
            self.networks[choice.net] = load_network(choice.net, self.device)
        except NotAvailable as error:
            self.reasons[choice.net] = str(error)

    def read(self) -> None:
        """Read every image once, a few at a time."""
        ready = [c for c in self.choices if c.net is None or c.net in self.networks]
        if not ready:
            return
        with _image_threads() as pool:
            for mine, theirs in _blocks(self.candidate, self.base, self.order):
                a, b = (_tensor(block, self.device) for block in (mine, theirs))
                self._read_block(ready, a, b, pool)

    def _read_block(
        self, ready: Sequence[MetricChoice], a: Tensor, b: Tensor, pool: ThreadPoolExecutor
    ) -> None:
        for choice in ready:
            if isinstance(choice.metric, ImagePairMetric):
                self._pair(choice, choice.metric, a, b, pool)
        for name in {c.net for c in ready if c.metric.reads == "embeddings" and c.net}:
            for side, block in (("candidate", a), ("reference", b)):
                embedded = self.networks[name].embed(block)  # type: ignore[attr-defined]
                self.features.setdefault((name, side), []).append(embedded.cpu().numpy())

    def _pair(
        self,
        choice: MetricChoice,
        metric: ImagePairMetric,
        a: Tensor,
        b: Tensor,
        pool: ThreadPoolExecutor,
    ) -> None:
        if a.shape != b.shape:
            raise UserError(
                f"given images of {tuple(a.shape[2:])} and reference images of"
                f" {tuple(b.shape[2:])} pixels, expected one size"
            )
        network = self.networks.get(choice.net or "")

        def one(i: int) -> Tensor:
            return metric.paired_scores(a[i : i + 1], b[i : i + 1], network)

        parts = list(pool.map(one, range(len(a))))
        self.pair_scores.setdefault(choice.label, []).append(torch.cat(parts).cpu().numpy())

    def score(
        self, choice: MetricChoice, clusters: NDArray[Any], texts: Mapping[str, str]
    ) -> Score:
        """The metric's value and interval, or why it has none."""
        reason = self.reasons.get(choice.net or "", "")
        if not reason and choice.metric.compares == "text" and len(texts) < len(clusters):
            reason = "no prompts were given"
        if reason:
            return Score(choice.label, None, None, None, choice.metric.better, reason)
        e = choice.metric.estimate(self._features(choice, clusters, texts))
        low, high = (None if np.isnan(end) else end for end in (e.low, e.high))
        return Score(choice.label, e.value, low, high, choice.metric.better)

    def _features(
        self, choice: MetricChoice, clusters: NDArray[Any], texts: Mapping[str, str]
    ) -> CellFeatures:
        if choice.metric.reads == "images":
            return CellFeatures(np.concatenate(self.pair_scores[choice.label]), clusters)
        name = choice.net or ""
        network = self.networks[name]
        mine, theirs = (
            np.concatenate(self.features[name, side]) for side in ("candidate", "reference")
        )
        embedded = None
        if choice.metric.compares == "text":
            words = [texts[i] for i in self.candidate.ids]
            embedded = network.embed_text(words).cpu().numpy()  # type: ignore[attr-defined]
        return CellFeatures(mine, clusters, theirs, embedded, network)


@contextmanager
def _image_threads() -> Iterator[ThreadPoolExecutor]:
    """Threads with one of torch's each: the maps of an image stay in the cache of one core."""
    count = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(count)  # it is what threads to come begin with


def _blocks(
    candidate: ImageSet, base: ImageSet, order: Sequence[int]
) -> Iterator[tuple[list[Pixels], list[Pixels]]]:
    """Images and their partners, a few at a time; the next few are read meanwhile."""
    first = candidate.read(0)
    size = max(1, PIXELS // (first.shape[0] * first.shape[1]))
    starts = range(0, len(candidate.ids), size)

    def mine(k: int) -> list[Pixels]:
        return [candidate.read(i) for i in range(k, min(k + size, len(order)))]

    def theirs(k: int) -> list[Pixels]:
        return [base.read(i) for i in order[k : k + size]]

    with ThreadPoolExecutor(1) as left, ThreadPoolExecutor(1) as right:
        following = left.submit(mine, 0), right.submit(theirs, 0)
        for k in starts:
            block = following[0].result(), following[1].result()
            if k + size < len(order):
                following = left.submit(mine, k + size), right.submit(theirs, k + size)
            yield block


def _tensor(block: Sequence[Pixels], device: str) -> Tensor:
    shapes = {pixels.shape for pixels in block}
    if len(shapes) > 1:
        sizes = sorted(f"{s[1]}x{s[0]}" for s in shapes)
        raise UserError(f"given images of {' and '.join(sizes)} pixels, expected one size")
    return torch.from_numpy(np.stack(block)).permute(0, 3, 1, 2).contiguous().to(device)
