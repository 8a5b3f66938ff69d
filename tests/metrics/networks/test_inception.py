"""The FID's Inception with random weights against three other implementations."""

import warnings

import numpy as np
import pytest
import torch
from kid_reference import kid_independent
from PIL import Image
from torch import Tensor
from torchvision.models.inception import Inception3

from sunbench.metrics import fd, inception_score
from sunbench.metrics.networks.inception import Inception

pytestmark = pytest.mark.oracle
N, DIM = 12, 8  # more images than features, so that sqrtm has an answer


def random_weights() -> dict[str, Tensor]:
    """Inception's tensors, scaled so that signals neither die nor explode."""
    torch.manual_seed(0)
    net = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
    return net.state_dict()


def images(seed: int, size: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand((N, 3, 5 + seed, 5 + seed), generator=g)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return (smooth * 255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_weights()


@pytest.fixture(scope="module")
def net(weights) -> Inception:
    return Inception(weights)


@pytest.fixture(scope="module")
def fidelity(weights, tmp_path_factory):
    """torch-fidelity's network with the same weights."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(weights, path)
    layers = ["2048", "logits_unbiased"]
    return FeatureExtractorInceptionV3("random", layers, feature_extractor_weights_path=str(path))


@pytest.fixture(scope="module")
def features(net) -> list[Tensor]:
    """Of two sets of 299x299 images, which nobody resizes."""
    return [net.embed(images(seed, 299)) for seed in (0, 1)]


def test_features_fid_kid_and_score_equal_torch_fidelity(net, fidelity, features):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    outputs = [fidelity(images(seed, 299)) for seed in (0, 1)]
    for ours, (theirs, _) in zip(features, outputs, strict=True):
        assert theirs.std() > 1e-3
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))
    small = [f[:, :DIM] for f in features]
    stats = [fid_features_to_statistics(f[:, :DIM].double()) for f, _ in outputs]
    expected = fid_statistics_to_metric(*stats, False)["frechet_inception_distance"]
    assert fd(*(f.numpy() for f in small)) == pytest.approx(expected, rel=1e-5)
    double = [f.double() for f, _ in outputs]
    theirs = kid_features_to_metric(*double, kid_subsets=1, kid_subset_size=N, verbose=False)
    expected = theirs["kernel_inception_distance_mean"]
    assert kid_independent(*(f.numpy() for f in features)) == pytest.approx(expected, rel=1e-5)
    logits = outputs[0][1]
    expected = isc_features_to_metric(logits, splits=1, shuffle=False)["inception_score_mean"]
    p = net.probabilities(features[0]).numpy()
    assert inception_score(p, splits=1) == pytest.approx(expected, rel=1e-4)


def test_fid_equals_torchmetrics(net, features):
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Small(torch.nn.Module):
        num_features = DIM

        def forward(self, images: Tensor) -> Tensor:
            return net.embed(images)[:, :DIM]

    metric = FrechetInceptionDistance(feature=Small())
    metric.set_dtype(torch.float64)
    for seed in (0, 1):
        metric.update(images(seed, 299), real=seed == 0)
    ours = fd(*(f[:, :DIM].numpy() for f in features))
    assert ours == pytest.approx(float(metric.compute()), rel=1e-5)


def test_fid_with_resize_equals_clean_fid_on_folders(net, tmp_path):
    from cleanfid import fid

    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        for i, pixels in enumerate(images(seed, 64)):
            image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
            image.save(tmp_path / str(seed) / f"{i:03}.png")

    def network(x: Tensor) -> Tensor:
        return net.net((x - 128) / 128)[:, :DIM]

    with warnings.catch_warnings():  # clean-fid passes deprecated arguments to Pillow and scipy
        warnings.simplefilter("ignore", DeprecationWarning)
        theirs = fid.compute_fid(
            str(tmp_path / "0"),
            str(tmp_path / "1"),
            mode="clean",
            custom_feat_extractor=network,
            num_workers=0,
            device=torch.device("cpu"),
            verbose=False,
            use_dataparallel=False,
        )
    a, b = (net.embed(images(seed, 64))[:, :DIM].numpy() for seed in (0, 1))
    assert fd(a, b) == pytest.approx(theirs, rel=1e-5)
    assert np.isfinite(theirs)
