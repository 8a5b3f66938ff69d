"""The Inception of the FID: TensorFlow's graph of 2015-12-05, with clean-fid's resize."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace
from torchvision.models.inception import Inception3

from sunbench.metrics.networks.availability import fetching
from sunbench.metrics.networks.backbone import frozen, full_precision, in_chunks, weights_key
from sunbench.metrics.networks.resize import clean_resize

# TensorFlow's weights (Apache-2.0) as converted by toshas/torch-fidelity, release v0.2.0
URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)


def weights_file() -> Path:
    """Where torch hub keeps the weights, whether or not they are there yet."""
    return Path(torch.hub.get_dir()) / "checkpoints" / URL.rpartition("/")[2]


def fetch_weights() -> dict[str, Tensor]:
    """Weights from torch hub's cache, or over the network on first use; checksum verified."""
    with fetching("Inception 2015-12-05 for fid, kid and inception_score"):
        return torch.hub.load_state_dict_from_url(
            URL, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )


def network(weights: Mapping[str, Tensor]) -> GraphModule:
    """torchvision's Inception v3 up to pool3, rewired to TensorFlow's pools.

    TensorFlow does not count the padding in its nine averages, and the last block's is a maximum
    (mseitzer/pytorch-fid, Apache-2.0, states the differences).
    """
    net = Inception3(num_classes=1008, aux_logits=False, init_weights=False).eval()
    net.load_state_dict(weights)
    net.fc = nn.Identity()
    graph = symbolic_trace(net)
    averages = [node for node in graph.graph.nodes if node.target is F.avg_pool2d]
    for node in averages:
        node.kwargs = {**node.kwargs, "count_include_pad": False}
    averages[-1].target = torch.max_pool2d
    averages[-1].kwargs = {"kernel_size": 3, "stride": 1, "padding": 1}
    graph.recompile()
    return graph


def load_inception(name: str, device: str = "cpu") -> Inception:
    """The Inception of the FID, fetched on first use."""
    return Inception(fetch_weights(), device)


class Inception:
    """2048 features of pool3, and class probabilities of the same features."""

    name = "inception"
    dim = 2048
    protocol = (
        "Inception v3 of 2015-12-05 (TensorFlow weights), pool3; Pillow-bicubic resize to 299x299,"
        " not rounded (clean-fid); (x - 128) / 128; float32"
    )

    def __init__(self, weights: Mapping[str, Tensor], device: str = "cpu", batch: int = 32) -> None:
        self.net = frozen(network(weights), device)
        self.head = weights["fc.weight"].to(device=device, dtype=torch.float32)
        self.device, self.batch = device, batch
        self.key = weights_key(self.net, self.protocol)

    def _embed(self, images: Tensor) -> Tensor:
        x = clean_resize(images.to(self.device), 299, 299)
        result: Tensor = self.net((x - 128) / 128)
        return result

    def embed(self, images: Tensor) -> Tensor:
        """uint8 NCHW -> float32 (N, 2048)."""
        return in_chunks(self._embed, images, self.batch)

    def probabilities(self, features: Tensor) -> Tensor:
        """float32 (N, 2048) -> (N, 1008): softmax of the logits without bias."""
        with full_precision():
            return (features.to(self.head) @ self.head.T).softmax(1)
