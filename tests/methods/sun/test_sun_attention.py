"""The maths on whole tensors, and what must not change."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sunbench.errors import UserError
from sunbench.methods.common.attentions import cross_attentions
from sunbench.methods.sun import NORMS, NegativeText, SunAdapter, bound
from sunbench.methods.sun.attention import norm_ratio

Randomly = Callable[..., SunAdapter]


def inputs(n: int, width: int, tokens: tuple[int, int] = (24, 24)) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(2)
    x = torch.randn(n, 4, 8, 8, generator=g)
    positive = torch.randn(n, tokens[0], width, generator=g)
    return x, positive, torch.randn(n, tokens[1], width, generator=g)


def plain_sun(attn: Any, layer: Any, x: Tensor, pos: Tensor, neg: Tensor, norm: str) -> Tensor:
    """Eq. 4 to 7 in float64, head by head, image by image."""
    heads = attn.heads

    def attend(wk: Tensor, wv: Tensor, text: Tensor) -> Tensor:
        q, k, v = x @ attn.to_q.weight.double().T, text @ wk.double().T, text @ wv.double().T
        size = q.shape[-1] // heads
        out = torch.empty_like(q)
        for b in range(len(x)):
            for h in range(heads):
                part = slice(h * size, (h + 1) * size)
                scores = q[b, :, part] @ k[b, :, part].T / size**0.5
                out[b, :, part] = scores.softmax(-1) @ v[b, :, part]
        return out

    def size(z: Tensor) -> Tensor:
        if norm == "none":
            return torch.ones((), dtype=z.dtype)
        square = z.square()
        if norm == "batch":
            return square.sum().sqrt()
        if norm == "sample":
            return torch.stack([s.sum().sqrt() for s in square])[:, None, None]
        return square.sum(-1, keepdim=True).sqrt()

    zp = attend(attn.to_k.weight, attn.to_v.weight, pos)
    zn = attend(layer.to_k_neg.weight, layer.to_v_neg.weight, neg)
    z = zp - (layer.to_k_neg_alpha * zn * size(zp) / size(zn) + layer.to_k_neg_beta)
    if layer.add_pos:
        zq = attend(layer.to_k_extra_pos.weight, layer.to_v_extra_pos.weight, pos)
        alpha, beta = layer.to_k_extra_pos_alpha, layer.to_k_extra_pos_beta
        z = z + (alpha * zq * size(zp) / size(zq) + beta)
    return z @ attn.to_out[0].weight.double().T + attn.to_out[0].bias.double()


@pytest.mark.parametrize("tokens", [(24, 24), (7, 19)])
@pytest.mark.parametrize("add_pos", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_every_attention_is_the_formula(
    norm: str, add_pos: bool, tokens: tuple[int, int], pipe: Any, randomly: Randomly
):
    adapter = randomly(pipe.unet, add_pos=add_pos, norm=norm)
    binding = adapter.bind(pipe.unet)
    g = torch.Generator().manual_seed(4)
    for name, attn in cross_attentions(pipe.unet).items():
        _, pos, neg = inputs(3, attn.cross_attention_dim, tokens)
        x = torch.randn(3, 10, attn.query_dim, generator=g)
        with torch.no_grad():
            out = attn(x, encoder_hidden_states=pos, negative_hidden_states=neg)
            layer = adapter.get_submodule(name)
            plain = plain_sun(attn, layer, x.double(), pos.double(), neg.double(), norm)
        torch.testing.assert_close(out.double(), plain, atol=2e-5, rtol=1e-5)
    binding.release()


def test_the_ratio_survives_half_precision():
    """|Z| of 4096 x 320 values of 100 is 114,487: beyond float16's largest number."""
    z = torch.full((1, 4096, 320), 100.0, dtype=torch.float16)
    ratio = norm_ratio(2 * z, z, "sample")
    assert ratio.dtype == torch.float32
    assert float(ratio) == pytest.approx(2.0, rel=1e-6)


def test_an_attention_of_zeros_gives_no_nan():
    z = torch.zeros(1, 2, 3)
    assert float(norm_ratio(torch.ones(1, 2, 3), z, "sample")) == 0.0


@pytest.mark.parametrize("add_pos", [False, True])
def test_zero_alpha_and_beta_is_the_base_to_the_bit(add_pos: bool, pipe: Any):
    x, pos, neg = inputs(2, 32)
    with torch.no_grad():
        base = pipe.unet(x, 500, pos).sample
        adapter = SunAdapter.for_unet(pipe.unet, add_pos=add_pos, init="random", alpha0=0.0)
        adapter.bind(pipe.unet)
        assert torch.equal(adapter(pipe.unet, x, 500, pos, neg), base)
        assert torch.equal(pipe.unet(x, 500, pos).sample, base)  # without negatives: the base


def test_paper_form_starts_as_the_base_and_the_released_one_as_guidance(pipe: Any):
    x, pos, neg = inputs(2, 32)
    with torch.no_grad():
        base = pipe.unet(x, 500, pos).sample
        paper = SunAdapter.for_unet(pipe.unet)
        binding = paper.bind(pipe.unet)
        assert torch.equal(paper(pipe.unet, x, 500, pos, neg), base)
        binding.release()
        both = SunAdapter.for_unet(pipe.unet, add_pos=True)
        both.bind(pipe.unet)
        same = both(pipe.unet, x, 500, pos, pos)
        assert float((same - base).norm() / base.norm()) < 2e-6
        assert float((both(pipe.unet, x, 500, pos, neg) - base).norm() / base.norm()) > 1e-3


@pytest.mark.parametrize("add_pos", [False, True])
def test_masked_positive_tokens_are_as_if_absent(add_pos: bool, pipe: Any, randomly: Randomly):
    adapter = randomly(pipe.unet, add_pos=add_pos)
    adapter.bind(pipe.unet)
    x, pos, neg = inputs(2, 32)
    mask = torch.ones(2, 24)
    mask[:, 10:] = 0
    words = {"negative_hidden_states": neg}
    with torch.no_grad():
        masked = pipe.unet(
            x, 500, pos, encoder_attention_mask=mask, cross_attention_kwargs=words
        ).sample
        short = adapter(pipe.unet, x, 500, pos[:, :10], neg)
    torch.testing.assert_close(masked, short, atol=1e-5, rtol=1e-4)


def test_a_half_precision_unet_runs_under_a_float32_adapter(pipe: Any, randomly: Randomly):
    adapter = randomly(pipe.unet, add_pos=True)
    adapter.bind(pipe.unet)
    x, pos, neg = inputs(2, 32)
    with torch.no_grad():
        full = adapter(pipe.unet, x, 500, pos, neg)
        pipe.unet.to(torch.bfloat16)
        half = adapter(pipe.unet, x.bfloat16(), 500, pos.bfloat16(), neg.bfloat16())
    assert half.dtype == torch.bfloat16
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    assert float((half.float() - full).norm() / full.norm()) < 0.05


@pytest.mark.parametrize(("norm", "apart"), [("sample", True), ("token", True), ("batch", False)])
def test_batch_mates_matter_to_the_batch_norm_alone(
    norm: str, apart: bool, pipe: Any, randomly: Randomly
):
    adapter = randomly(pipe.unet, norm=norm)
    adapter.bind(pipe.unet)
    x, pos, neg = inputs(3, 32)
    neg = neg * torch.tensor([1.0, 3.0, 0.1])[:, None, None]
    with torch.no_grad():
        whole = adapter(pipe.unet, x, 500, pos, neg)[0]
        alone = adapter(pipe.unet, x[:1], 500, pos[:1], neg[:1])[0]
    difference = float((whole - alone).norm() / alone.norm())
    assert (difference < 1e-5) if apart else (difference > 1e-3)


def test_gradients_reach_the_adapter_alone_and_checkpointing_keeps_them(
    pipe: Any, randomly: Randomly
):
    adapter = randomly(pipe.unet, add_pos=True)
    adapter.bind(pipe.unet)
    x, pos, neg = inputs(2, 32)
    pipe.unet.train()

    def gradients() -> dict[str, Tensor]:
        adapter.zero_grad()
        adapter(pipe.unet, x, 500, pos, neg).square().mean().backward()
        return {n: p.grad.clone() for n, p in adapter.named_parameters() if p.grad is not None}

    plain = gradients()
    assert plain.keys() == dict(adapter.named_parameters()).keys()
    assert all(float(g.abs().max()) > 0 for g in plain.values())
    assert all(p.grad is None for p in pipe.unet.parameters())
    pipe.unet.enable_gradient_checkpointing()
    loss = adapter(pipe.unet, x, 500, pos, neg).square().mean()
    with torch.no_grad():  # a call between forward and backward must not disturb it
        adapter(pipe.unet, x, 500, neg, pos)
    adapter.zero_grad()
    loss.backward()
    for name, p in adapter.named_parameters():
        torch.testing.assert_close(p.grad, plain[name], atol=1e-7, rtol=1e-4)


def test_the_unet_does_not_own_the_adapter(pipe: Any, randomly: Randomly):
    before = set(pipe.unet.state_dict())
    adapter = randomly(pipe.unet)
    adapter.bind(pipe.unet)
    assert set(pipe.unet.state_dict()) == before
    pipe.unet.requires_grad_(False)
    assert all(p.requires_grad for p in adapter.parameters())


def test_self_attention_takes_the_keyword_in_silence(
    pipe: Any, randomly: Randomly, caplog: pytest.LogCaptureFixture
):
    adapter = randomly(pipe.unet)
    adapter.bind(pipe.unet)
    logging.getLogger("diffusers").addHandler(caplog.handler)
    try:
        adapter(pipe.unet, *inputs(1, 32)[:1], 500, *inputs(1, 32)[1:])
    finally:
        logging.getLogger("diffusers").removeHandler(caplog.handler)
    assert not caplog.records


def test_release_puts_every_processor_and_hook_back(pipe: Any, randomly: Randomly):
    before = dict(pipe.unet.attn_processors)
    adapter = randomly(pipe.unet)
    first, second = adapter.bind(pipe.unet), adapter.bind(pipe.unet)
    assert first is second
    first.release()
    assert bound(pipe.unet) is first
    second.release()
    assert bound(pipe.unet) is None
    assert all(pipe.unet.attn_processors[k] is p for k, p in before.items())
    assert not any(m._forward_pre_hooks for m in pipe.unet.modules())


def test_two_adapters_do_not_share_a_unet(pipe: Any, randomly: Randomly):
    randomly(pipe.unet).bind(pipe.unet)
    with pytest.raises(UserError, match="has a SUN adapter"):
        randomly(pipe.unet).bind(pipe.unet)


@pytest.mark.parametrize("shape", [(2, 24, 31), (1, 24, 32), (2, 32)])
def test_negative_states_that_do_not_fit(shape: tuple[int, ...], pipe: Any, randomly: Randomly):
    adapter = randomly(pipe.unet)
    adapter.bind(pipe.unet)
    x, pos, _ = inputs(2, 32)
    with pytest.raises(
        UserError, match=r"given negative states of shape .*expected \(2, tokens, 32\)"
    ):
        adapter(pipe.unet, x, 500, pos, torch.zeros(shape))


def test_texts_are_projected_once_while_they_stay_the_same(pipe: Any, randomly: Randomly):
    adapter = randomly(pipe.unet, add_pos=True)
    adapter.bind(pipe.unet)
    x, pos, neg = inputs(2, 32)
    text = NegativeText(neg)
    calls: list[int] = []
    layer = adapter.get_submodule(adapter.names[0])
    layer.to_k_neg.register_forward_hook(lambda *a: calls.append(1))
    with torch.no_grad():
        first = adapter(pipe.unet, x, 500, pos, text)
        assert torch.equal(adapter(pipe.unet, x, 500, pos, text), first)
        assert len(calls) == 1
        other = adapter(pipe.unet, x, 500, 2 * pos, text)
        assert len(calls) == 2
        assert not torch.equal(other, first)
    adapter(pipe.unet, x, 500, pos, text)  # with gradients nothing is remembered
    adapter(pipe.unet, x, 500, pos, text)
    assert len(calls) == 4
