"""The original ("ldm", Civitai) single-file layout, listed from component configs.

Written from the architecture (Rombach et al. 2022), not from any conversion code, so that the
conversion can be tested against it. Each function maps tensor names to shapes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Layout = dict[str, tuple[int, ...]]
UNET, VAE, TEXT = (
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.transformer.text_model.",
)


def linear(name: str, cin: int, cout: int, bias: bool = True) -> Layout:
    return {f"{name}.weight": (cout, cin)} | ({f"{name}.bias": (cout,)} if bias else {})


def conv(name: str, cin: int, cout: int, size: int = 3) -> Layout:
    return {f"{name}.weight": (cout, cin, size, size), f"{name}.bias": (cout,)}


def norm(name: str, width: int) -> Layout:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def unet_residual(name: str, cin: int, cout: int, time: int) -> Layout:
    skip = conv(f"{name}.skip_connection", cin, cout, 1) if cin != cout else {}
    return {
        **norm(f"{name}.in_layers.0", cin),
        **conv(f"{name}.in_layers.2", cin, cout),
        **linear(f"{name}.emb_layers.1", time, cout),
        **norm(f"{name}.out_layers.0", cout),
        **conv(f"{name}.out_layers.3", cout, cout),
        **skip,
    }


def attention(name: str, width: int, context: int) -> Layout:
    return {
        **linear(f"{name}.to_q", width, width, bias=False),
        **linear(f"{name}.to_k", context, width, bias=False),
        **linear(f"{name}.to_v", context, width, bias=False),
        **linear(f"{name}.to_out.0", width, width),
    }


def transformer(name: str, width: int, context: int) -> Layout:
    block = f"{name}.transformer_blocks.0"
    return {
        **norm(f"{name}.norm", width),
        **conv(f"{name}.proj_in", width, width, 1),
        **attention(f"{block}.attn1", width, width),
        **attention(f"{block}.attn2", width, context),
        **linear(f"{block}.ff.net.0.proj", width, 8 * width),
        **linear(f"{block}.ff.net.2", 4 * width, width),
        **norm(f"{block}.norm1", width),
        **norm(f"{block}.norm2", width),
        **norm(f"{block}.norm3", width),
        **conv(f"{name}.proj_out", width, width, 1),
    }


def unet_layout(config: Mapping[str, Any]) -> Layout:
    widths, layers = config["block_out_channels"], config["layers_per_block"]
    base, time, context = widths[0], 4 * widths[0], config["cross_attention_dim"]
    layout = {
        **linear(f"{UNET}time_embed.0", base, time),
        **linear(f"{UNET}time_embed.2", time, time),
        **conv(f"{UNET}input_blocks.0.0", config["in_channels"], base),
    }
    index, now, skips = 1, base, [base]
    for level, width in enumerate(widths):
        for _ in range(layers):
            layout |= unet_residual(f"{UNET}input_blocks.{index}.0", now, width, time)
            if "CrossAttn" in config["down_block_types"][level]:
                layout |= transformer(f"{UNET}input_blocks.{index}.1", width, context)
            index, now = index + 1, width
            skips.append(now)
        if level < len(widths) - 1:
            layout |= conv(f"{UNET}input_blocks.{index}.0.op", now, now)
            index += 1
            skips.append(now)
    layout |= unet_residual(f"{UNET}middle_block.0", now, now, time)
    layout |= transformer(f"{UNET}middle_block.1", now, context)
    layout |= unet_residual(f"{UNET}middle_block.2", now, now, time)
    index = 0
    for level, width in enumerate(reversed(widths)):
        for layer in range(layers + 1):
            name, part = f"{UNET}output_blocks.{index}", 1
            layout |= unet_residual(f"{name}.0", now + skips.pop(), width, time)
            if "CrossAttn" in config["up_block_types"][level]:
                layout |= transformer(f"{name}.1", width, context)
                part = 2
            if layer == layers and level < len(widths) - 1:
                layout |= conv(f"{name}.{part}.conv", width, width)
            index, now = index + 1, width
    return {
        **layout,
        **norm(f"{UNET}out.0", base),
        **conv(f"{UNET}out.2", base, config["out_channels"]),
    }


def vae_residual(name: str, cin: int, cout: int) -> Layout:
    skip = conv(f"{name}.nin_shortcut", cin, cout, 1) if cin != cout else {}
    return {
        **norm(f"{name}.norm1", cin),
        **conv(f"{name}.conv1", cin, cout),
        **norm(f"{name}.norm2", cout),
        **conv(f"{name}.conv2", cout, cout),
        **skip,
    }


def vae_middle(name: str, width: int) -> Layout:
    layout = vae_residual(f"{name}.block_1", width, width) | norm(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        layout |= conv(f"{name}.attn_1.{part}", width, width, 1)
    return layout | vae_residual(f"{name}.block_2", width, width)


def vae_layout(config: Mapping[str, Any]) -> Layout:
    widths, layers = config["block_out_channels"], config["layers_per_block"]
    latent, colors = config["latent_channels"], config["in_channels"]
    first, last = widths[0], widths[-1]
    layout = conv(f"{VAE}encoder.conv_in", colors, first)
    now = first
    for level, width in enumerate(widths):
        for layer in range(layers):
            layout |= vae_residual(f"{VAE}encoder.down.{level}.block.{layer}", now, width)
            now = width
        if level < len(widths) - 1:
            layout |= conv(f"{VAE}encoder.down.{level}.downsample.conv", now, now)
    layout |= vae_middle(f"{VAE}encoder.mid", last) | norm(f"{VAE}encoder.norm_out", last)
    layout |= conv(f"{VAE}encoder.conv_out", last, 2 * latent)
    layout |= conv(f"{VAE}quant_conv", 2 * latent, 2 * latent, 1)
    layout |= conv(f"{VAE}post_quant_conv", latent, latent, 1)
    layout |= conv(f"{VAE}decoder.conv_in", latent, last) | vae_middle(f"{VAE}decoder.mid", last)
    for level in reversed(range(len(widths))):
        for layer in range(layers + 1):
            layout |= vae_residual(f"{VAE}decoder.up.{level}.block.{layer}", now, widths[level])
            now = widths[level]
        if level > 0:
            layout |= conv(f"{VAE}decoder.up.{level}.upsample.conv", now, now)
    layout |= norm(f"{VAE}decoder.norm_out", first)
    return layout | conv(f"{VAE}decoder.conv_out", first, colors)


def text_layout(config: Mapping[str, Any]) -> Layout:
    width, inner = config["hidden_size"], config["intermediate_size"]
    layout: Layout = {
        f"{TEXT}embeddings.token_embedding.weight": (config["vocab_size"], width),
        f"{TEXT}embeddings.position_embedding.weight": (config["max_position_embeddings"], width),
    }
    for layer in range(config["num_hidden_layers"]):
        name = f"{TEXT}encoder.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            layout |= linear(f"{name}.self_attn.{part}", width, width)
        layout |= norm(f"{name}.layer_norm1", width) | norm(f"{name}.layer_norm2", width)
        layout |= linear(f"{name}.mlp.fc1", width, inner) | linear(f"{name}.mlp.fc2", inner, width)
    return layout | norm(f"{TEXT}final_layer_norm", width)


def checkpoint_layout(configs: Path) -> Layout:
    """All of a single file, with the leftovers of training that real ones carry."""

    def config(component: str) -> dict[str, Any]:
        return dict(json.loads((configs / component / "config.json").read_text()))

    leftovers: Layout = {"betas": (1000,), "alphas_cumprod": (1000,), "model_ema.decay": ()}
    positions: Layout = {f"{TEXT}embeddings.position_ids": (1, 77)}
    networks = unet_layout(config("unet")) | vae_layout(config("vae"))
    return networks | text_layout(config("text_encoder")) | positions | leftovers


def write_zeros(path: Path, layout: Layout) -> None:
    """Write a float16 checkpoint of zeros as a sparse file: full size, no space on disk."""
    entries: dict[str, Any] = {}
    end = 0
    for name, shape in layout.items():
        size = 2
        for extent in shape:
            size *= extent
        entries[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + end)
