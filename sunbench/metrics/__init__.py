"""Named metrics, each a number with its interval; networks load from `networks`.

This module imports no torch.
"""

from sunbench.metrics.clip_score import clip_score
from sunbench.metrics.cosine import cosine
from sunbench.metrics.estimate import (
    Estimate,
    Resampled,
    closer_share,
    mean_estimate,
    resampled_mean,
)
from sunbench.metrics.frechet import Moments, ReferenceFactor, fd, fd_estimate, frechet
from sunbench.metrics.inception_score import inception_score, resampled_inception_score
from sunbench.metrics.kid import kid, kid_estimate
from sunbench.metrics.metric import (
    CellFeatures,
    ImagePairMetric,
    Metric,
    PairedMetric,
    PerImageMetric,
    SetMetric,
    Tolerance,
)
from sunbench.metrics.networks import NETWORKS, clip_extractor, extractor, load_network
from sunbench.metrics.networks.availability import NotAvailable
from sunbench.metrics.registry import METRICS, MetricChoice, find_metric, metric, metrics

__all__ = [
    "METRICS",
    "NETWORKS",
    "CellFeatures",
    "Estimate",
    "ImagePairMetric",
    "Metric",
    "MetricChoice",
    "Moments",
    "NotAvailable",
    "PairedMetric",
    "PerImageMetric",
    "ReferenceFactor",
    "Resampled",
    "SetMetric",
    "Tolerance",
    "clip_extractor",
    "clip_score",
    "closer_share",
    "cosine",
    "extractor",
    "fd",
    "fd_estimate",
    "find_metric",
    "frechet",
    "inception_score",
    "kid",
    "kid_estimate",
    "load_network",
    "mean_estimate",
    "metric",
    "metrics",
    "resampled_inception_score",
    "resampled_mean",
]
