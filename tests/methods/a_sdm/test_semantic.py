"""Semantic-aware supervision: levels, views, and the loss by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import vgg16 as torchvision_vgg16

from sunbench.errors import UserError
from sunbench.methods.a_sdm.semantic import (
    Decoded,
    SemanticLoss,
    SequentialLevels,
    fitted_projection,
    vgg16,
    zoo_reader,
)
from sunbench.sampling.task import encode
from sunbench.training.diffusion import Schedule
from sunbench.zoo.world.reader import Reader


def test_levels_are_the_chosen_layers_outputs():
    chain = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 2, 1), nn.ReLU()
    )
    levels = SequentialLevels(chain, (1, 4), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    x = torch.rand(2, 3, 4, 4) * 2 - 1
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])
    seen = (x / 2 + 0.5 - mean[:, None, None]) / std[:, None, None]
    first, second = levels(x)
    torch.testing.assert_close(first, chain[:2](seen))
    torch.testing.assert_close(second, chain(seen))
    assert not any(p.requires_grad for p in levels.parameters())


def test_the_loss_by_hand():
    """Noise of 3 and 1 in x of 2 at alpha 0.6, sigma 0.8: x_0 of -2/3 and 2."""
    schedule = Schedule(torch.tensor([0.6]), torch.tensor([0.8]))

    def levels(x: Tensor) -> list[Tensor]:
        return [x, 2 * x.mean((2, 3))]

    loss = SemanticLoss(schedule, lambda z: z, levels)
    x = torch.full((1, 4, 2, 2), 2.0)
    computed_loss = loss(x, torch.tensor([0]), 3 * torch.ones_like(x), torch.ones_like(x))
    gap = 2 + 2 / 3
    assert float(computed_loss) == pytest.approx(0.36 * (gap**2 + (2 * gap) ** 2), rel=1e-5)


def test_vgg16_is_read_from_a_file(tmp_path: Path):
    torch.manual_seed(0)
    net = torchvision_vgg16().eval()
    file = tmp_path / "vgg16.safetensors"
    save_file(net.state_dict(), file)
    levels, x = vgg16(str(file)), torch.rand(1, 3, 32, 32) * 2 - 1
    features = levels(x)
    assert [f.shape[1] for f in features] == [64, 128, 256, 512]
    seen = (x / 2 + 0.5 - levels.mean) / levels.std
    with torch.no_grad():
        torch.testing.assert_close(features[1], net.features[:9](seen))


def test_the_zoos_reader_is_read_from_a_file(tmp_path: Path):
    reader, file = Reader(), tmp_path / "model.safetensors"
    save_file(reader.state_dict(), file)
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    features = zoo_reader(str(file))(x)
    assert len(features) == len(reader.body)
    with torch.no_grad():
        torch.testing.assert_close(features[-1], reader.body(x))


@pytest.mark.parametrize("kind", [vgg16, zoo_reader])
def test_files_of_other_networks_are_one_line(kind: Any, tmp_path: Path):
    with pytest.raises(UserError, match=r"expected a \.safetensors file"):
        kind(str(tmp_path / "none.safetensors"))
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="weights of another network"):
        kind(str(tmp_path / "x.safetensors"))
    with pytest.raises(UserError, match=r"pickle|safetensors"):
        kind(str(tmp_path / "x.bin"))


def test_the_reader_is_the_zoos_by_default():
    from sunbench.studies.zoo_quality import load_reader

    x = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(zoo_reader("")(x)[-1], load_reader().body(x))


def test_a_zoo_without_a_reader_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("sunbench.zoo.weights", lambda: tmp_path)
    with pytest.raises(UserError, match=r"reader/model\.safetensors', expected a \.safetensors"):
        zoo_reader("")


def test_the_projection_is_the_least_squares_map(pipeline: Any):
    """Where colors are a linear map of latents, it is found."""
    torch.manual_seed(0)
    true = torch.randn(4, 3)

    class Vae:
        config = SimpleNamespace(shift_factor=0.0, scaling_factor=2.0)
        device, dtype = torch.device("cpu"), torch.float32

        def encode(self, images: Tensor) -> Any:
            small = nn.functional.avg_pool2d(images - 0.1, 2)
            return SimpleNamespace(latents=torch.einsum("bchw,kc->bkhw", small, true) / 2)

    drawn = torch.rand(64, 3, 8, 8) * 2 - 1
    data: Any = SimpleNamespace(draw=lambda n, g: (drawn[:n], [""] * n))
    view = fitted_projection(SimpleNamespace(vae=Vae()), data, 4)
    z = torch.einsum("bchw,kc->bkhw", nn.functional.avg_pool2d(drawn - 0.1, 2), true)
    torch.testing.assert_close(view(z), nn.functional.avg_pool2d(drawn, 2), atol=1e-3, rtol=1e-3)


def test_the_decoded_view_is_the_decoder(pipeline: Any):
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    z = encode(pipeline, images)
    z.requires_grad_(True)
    out = Decoded(pipeline.vae)(z)
    expected = pipeline.vae.decode(z / pipeline.vae.config.scaling_factor).sample
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    assert float(z.grad.abs().max()) > 0
