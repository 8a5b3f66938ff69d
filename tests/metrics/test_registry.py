"""Names of metrics: labels, defaults, nearest matches, no torch."""

import subprocess
import sys

import pytest

from sunbench.errors import UserError
from sunbench.metrics import METRICS, find_metric, metrics


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("fid", "fid"),
        ("ssim", "ssim"),
        ("fd", "fd[zoo-clip]"),
        ("kid", "kid[inception]"),
        ("fd[dinov2/vitl14]", "fd[dinov2/vitl14]"),
        ("perceptual[zoo-clip]", "perceptual[zoo-clip]"),
        ("clip_score", "clip_score[open-clip/ViT-g-14/laion2b_s34b_b88k]"),
        ("clip_score[open-clip/RN50/openai]", "clip_score[open-clip/RN50/openai]"),
    ],
)
def test_labels(name, label):
    assert find_metric(name).label == label


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fdi", "did you mean"),
        ("fid[zoo-clip]", "its network is fixed"),
        ("fd[zoo-clp]", "did you mean 'zoo-clip'"),
        ("clip_score[inception]", "unknown network for clip_score"),
        ("lpips[inception]", "unknown network for lpips"),
        ("lpips[zoo-clip]", "which has no learned heads: perceptual[zoo-clip]"),
        ("fd[", "expected a name like"),
    ],
)
def test_errors(name, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        find_metric(name)


def test_every_metric_says_what_it_is():
    assert metrics().keys() >= METRICS.keys()
    for name, metric in metrics().items():
        assert metric.name == name
        assert metric.summary
        assert metric.protocol
        assert find_metric(name).metric is metric


def test_the_package_imports_no_torch():
    code = "import sys, sunbench.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
