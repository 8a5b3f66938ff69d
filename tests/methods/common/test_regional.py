"""GRI attention, the reconstruction, against attention with a mask."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from sunbench.errors import UserError
from sunbench.methods.common.regional import (
    RegionalProcessor,
    place_regional,
    pooled,
    positions,
    window_side,
    windows,
)


@pytest.fixture
def attention() -> Attention:
    torch.manual_seed(0)
    return Attention(query_dim=8, heads=2, dim_head=4).eval()


def test_windows_have_a_quarter_of_the_side():
    assert [window_side(n * n) for n in (64, 32, 16, 8)] == [16, 8, 4, 4]
    assert window_side(16) is None  # as large as one window
    assert window_side(12) is None  # not square


def test_positions_come_back():
    x = torch.randn(2, 64, 3)
    assert torch.equal(positions(windows(x, 4), 4), x)
    corner = x.reshape(2, 8, 8, 3)[:, :4, 4:].flatten(1, 2)
    assert torch.equal(windows(x, 4)[:, 1], corner)


def test_a_query_sees_its_window_and_the_averaged_map(attention: Attention):
    x = torch.randn(2, 64, 8)
    ours = RegionalProcessor()(attention, x)
    own, whole = windows(x, 4), pooled(x, 4)
    assert torch.allclose(whole[:, 0], x.reshape(2, 8, 8, 8)[:, :2, :2].mean((1, 2)), atol=1e-6)
    for w in range(4):
        keys = torch.cat([own[:, w], whole], 1)
        expected = AttnProcessor2_0()(attention, own[:, w], keys)
        torch.testing.assert_close(windows(ours, 4)[:, w], expected, atol=1e-5, rtol=1e-4)


def test_small_maps_and_texts_are_attended_to_as_a_whole(attention: Attention):
    x = torch.randn(2, 16, 8)
    assert torch.equal(RegionalProcessor()(attention, x), AttnProcessor2_0()(attention, x))
    x, text = torch.randn(2, 64, 8), torch.randn(2, 5, 8)
    assert torch.equal(
        RegionalProcessor()(attention, x, text), AttnProcessor2_0()(attention, x, text)
    )


def test_only_outer_self_attention_is_replaced(deep: Any):
    unet = place_regional(copy.deepcopy(deep.unet))
    regional = {n for n, p in unet.attn_processors.items() if isinstance(p, RegionalProcessor)}
    assert regional == {
        n
        for n in unet.attn_processors
        if "attn1" in n
        and n.startswith(("down_blocks.0", "down_blocks.1", "up_blocks.2", "up_blocks.3"))
    }
    assert unet.state_dict().keys() == deep.unet.state_dict().keys()


def test_a_network_without_is_refused(deep: Any):
    unet = copy.deepcopy(deep.unet)
    unet.down_blocks = unet.down_blocks[3:]
    unet.up_blocks = unet.up_blocks[:1]
    with pytest.raises(UserError, match="without self-attention"):
        place_regional(unet)
