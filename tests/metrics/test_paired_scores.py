"""Paired scores against torchmetrics, and what they must notice."""

import io

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor

from sunbench.bench.feature_extractors import FeatureExtractors
from sunbench.errors import UserError
from sunbench.metrics.networks.lpips import LearnedLpips
from sunbench.metrics.perceptual import layer_distance
from sunbench.metrics.psnr import psnr
from sunbench.metrics.registry import find_metric
from sunbench.metrics.ssim import ssim


def images(n: int, seed: int, size: int = 48) -> Tensor:
    """Smooth color images, uint8 NCHW."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand((n, 3, 6, 6), generator=g)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).round().to(torch.uint8)


def paired(
    a: Tensor, b: Tensor, lpips: LearnedLpips | None = None, *, size: int = 64
) -> dict[str, np.ndarray]:
    """Scores of pairs by metric, as a run computes them."""
    names = ("ssim", "psnr") if lpips is None else ("ssim", "psnr", "lpips[alex]")
    networks = {} if lpips is None else {"alex": lpips}
    extractors = FeatureExtractors(tuple(find_metric(n) for n in names), networks)
    scores = extractors.paired({"images": (a, b)}, "reference", size)
    return {m: scores[name] for m, name in extractors.paired_names("reference").items()}


def nudged(x: Tensor, by: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (
        (x.int() + torch.randint(-by, by + 1, x.shape, generator=g)).clamp(0, 255).to(torch.uint8)
    )


def jpeg(x: Tensor, quality: int) -> Tensor:
    def one(image: Tensor) -> Tensor:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)

    return torch.stack([one(image) for image in x])


@pytest.fixture
def alex(monkeypatch) -> LearnedLpips:
    """LPIPS with its real heads on a backbone of random weights."""
    build = torchvision.models.alexnet
    monkeypatch.setattr(torchvision.models, "alexnet", lambda weights: build(weights=None))
    torch.manual_seed(0)
    return LearnedLpips("alex")


@pytest.mark.oracle
@pytest.mark.parametrize("shape", [(48, 48), (40, 64)])
def test_ssim_and_psnr_equal_torchmetrics(shape):
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    a = images(5, 0, 64)[:, :, : shape[0], : shape[1]]
    b = nudged(a, 20)
    x, y = a.double() / 255, b.double() / 255
    theirs = structural_similarity_index_measure(x, y, data_range=1.0, reduction="none")
    torch.testing.assert_close(ssim(a, b).double(), theirs, atol=1e-5, rtol=0)
    decibels = peak_signal_noise_ratio(x, y, data_range=1.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(psnr(a, b), decibels.double(), atol=1e-5, rtol=0)


@pytest.mark.oracle
def test_layer_distance_is_torchmetrics_lpips_with_heads_of_one():
    from torchmetrics.functional.image.lpips import _LPIPS

    torch.manual_seed(0)
    net = _LPIPS(pretrained=False, net="alex", pnet_rand=True)
    for head in net.lins:
        torch.nn.init.ones_(head.model[-1].weight)
    a, b = (images(3, s, 64).float() / 127.5 - 1 for s in (0, 1))
    ours = layer_distance(net.net(net.scaling_layer(a)), net.net(net.scaling_layer(b)))
    torch.testing.assert_close(ours, net(a, b).flatten(), rtol=1e-5, atol=1e-7)


@pytest.mark.oracle
def test_learned_lpips_is_torchmetrics(alex):
    a, b = images(3, 0, 64), images(3, 1, 64)
    theirs = alex.net(a.float() / 255, b.float() / 255, normalize=True).flatten()
    torch.testing.assert_close(alex.distance(a, b), theirs, rtol=1e-4, atol=1e-6)


def test_paired_names_one_value_a_picture_and_is_perfect_on_itself(alex):
    a = images(5, 0, 64)
    scores = paired(a, a, alex, size=2)
    assert set(scores) == {"ssim", "psnr", "lpips[alex]"}
    assert all(v.shape == (5,) and v.dtype == np.float64 for v in scores.values())
    np.testing.assert_allclose(scores["ssim"], 1, atol=1e-6)
    np.testing.assert_array_equal(scores["psnr"], 100)
    np.testing.assert_array_equal(scores["lpips[alex]"], 0)


def test_chunks_do_not_change_scores():
    a, b = images(5, 0), images(5, 1)
    whole, single = paired(a, b), paired(a, b, size=1)
    for name in whole:
        np.testing.assert_allclose(whole[name], single[name], rtol=1e-5)


def test_negative_black_and_jpeg_pictures_are_noticed(alex):
    a = images(4, 0, 64)
    slight = paired(a, nudged(a, 1), alex)
    for changed in (255 - a, torch.zeros_like(a), jpeg(a, 5)):
        scores = paired(a, changed, alex)
        assert (scores["psnr"] < slight["psnr"] - 3).all()
        assert (scores["ssim"] < slight["ssim"]).all()
        assert (scores["lpips[alex]"] > slight["lpips[alex]"]).all()
    assert (paired(a, jpeg(a, 95))["psnr"] < 100).all()


def test_pairs_must_match():
    a = images(3, 0)
    with pytest.raises(UserError, match="expected pairs of one shape"):
        paired(a, a[:2])
    with pytest.raises(UserError, match="expected uint8"):
        paired(a.float(), a)
    with pytest.raises(UserError, match="at least 6 for SSIM"):
        ssim(a[..., :4, :4], a[..., :4, :4])


def test_lpips_out_of_reach_says_so(monkeypatch, tmp_path):
    from urllib.error import URLError

    from sunbench.metrics import NotAvailable

    def unreachable(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    with pytest.raises(NotAvailable, match="weights not available offline: torchvision's alex"):
        LearnedLpips("alex")


def test_a_run_names_learned_lpips_by_its_weights(alex, monkeypatch):
    from sunbench.bench import feature_extractors

    monkeypatch.setattr(feature_extractors, "load_network", lambda net, device: alex)
    loaded = feature_extractors.FeatureExtractors.load(("lpips[alex]",), "cpu")
    a = images(3, 0, 64)
    scores = loaded.paired({"images": (a, nudged(a, 20))}, "0123456789abcdef", 2)
    (name,) = [n for n in scores if "lpips" in n]
    assert name == f"paired-0123456789ab-lpips-alex-{alex.key[:8]}"
    assert scores[name].shape == (3,)
    assert (scores[name] > 0).all()
