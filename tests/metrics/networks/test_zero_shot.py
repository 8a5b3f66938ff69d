"""The zoo scorer's zero-shot probabilities, and the inception score of them."""

from __future__ import annotations

import numpy as np
import torch

from sunbench.metrics.metric import CellFeatures
from sunbench.metrics.networks.zoo_clip import load_zoo_clip
from sunbench.metrics.registry import find_metric
from sunbench.zoo.world.captions import things


def test_things_names_are_their_own_likeliest_class():
    net, names = load_zoo_clip("zoo-clip"), [thing.name for thing in things()]
    texts = net.embed_text([f"a {name}" for name in names])
    p = net.probabilities(texts)
    assert p.shape == (len(names), len(names))
    torch.testing.assert_close(p.sum(1), torch.ones(len(names)))
    assert torch.equal(p.argmax(1), torch.arange(len(names)))
    chosen = find_metric("zero_shot_inception_score")
    assert chosen.label == "zero_shot_inception_score"
    rows = np.arange(40)
    value = chosen.metric.estimate(CellFeatures(texts.numpy()[rows % 20], rows, network=net)).value
    assert 1 < value <= len(names)
