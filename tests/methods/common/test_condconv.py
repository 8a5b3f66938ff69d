"""Mixed convolutions against one plain convolution per image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from sunbench.methods.common.condconv import CondConv2d


def mixture(count: int = 3, stride: int = 1) -> CondConv2d:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride, 1)
    mixed = CondConv2d(conv, count)
    with torch.no_grad():
        mixed.experts.copy_(torch.cat([conv.weight, *torch.randn(count - 1, 6, 4, 3, 3)]))
        mixed.bias.copy_(conv.bias)
        mixed.router.weight.zero_()
        mixed.router.bias.zero_()
    return mixed


def test_it_is_the_first_expert_exactly_at_first():
    mixed, x = mixture(), torch.randn(5, 4, 7, 7)
    first = mixed.experts[:6]
    assert torch.equal(mixed.kernels(x), first.expand(5, -1, -1, -1, -1))
    torch.testing.assert_close(mixed(x), F.conv2d(x, first, mixed.bias, 1, 1))


def test_each_image_has_its_own_kernel():
    mixed, x = mixture(stride=2), torch.randn(5, 4, 8, 8)
    nn.init.normal_(mixed.router.weight)
    with torch.no_grad():
        shares = 2 * torch.sigmoid(mixed.router(x.mean((2, 3)))) - 1
        shares[:, 0] += 1
        experts = mixed.experts.reshape(3, 6, 4, 3, 3)
        for image, share, ours in zip(x, shares, mixed(x), strict=True):
            kernel = sum(r * e for r, e in zip(share, experts, strict=True))
            expected = F.conv2d(image[None], kernel, mixed.bias, 2, 1)[0]
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_an_image_does_not_depend_on_its_batch():
    mixed, x = mixture(), torch.randn(4, 4, 8, 8)
    nn.init.normal_(mixed.router.weight)
    torch.testing.assert_close(mixed(x)[2:3], mixed(x[2:3]), atol=1e-5, rtol=1e-4)


def test_the_router_has_a_gradient_at_first():
    mixed = mixture()
    mixed(torch.randn(3, 4, 5, 5)).square().sum().backward()
    assert float(mixed.router.weight.grad.abs().max()) > 0
    assert float(mixed.experts.grad[:6].abs().max()) > 0
