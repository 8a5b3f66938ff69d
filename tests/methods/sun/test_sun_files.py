"""Layouts, coverage and counts of adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from sunbench.errors import UserError
from sunbench.methods.common.attentions import cross_attentions
from sunbench.methods.sun import SunAdapter, read_adapter, write_adapter
from sunbench.methods.sun.adapter import shapes_of
from sunbench.methods.sun.files import about_adapter, official_prefixes

Randomly = Callable[..., SunAdapter]


def meta_unet(architecture: str, **changes: Any) -> UNet2DConditionModel:
    path = files("sunbench.models") / "configs" / architecture / "unet" / "config.json"
    config = json.loads(path.read_text()) | changes
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


@pytest.fixture(scope="module")
def sd15() -> UNet2DConditionModel:
    return meta_unet("sd1")


@pytest.mark.parametrize(("add_pos", "count"), [(False, 19_194_240), (True, 38_388_480)])
def test_parameters_on_stable_diffusion_15(add_pos: bool, count: int, sd15: Any):
    adapter = SunAdapter.for_unet(sd15, add_pos=add_pos)
    assert adapter.parameter_count == count
    assert len(adapter.state_dict()) == (128 if add_pos else 64)


@pytest.mark.parametrize(
    ("architecture", "changes", "layers"),
    [
        ("sd2", {}, 16),
        ("sd1", {"layers_per_block": 1}, 10),  # BK-SDM-Base
        ("sd1", {"layers_per_block": 1, "mid_block_type": None}, 9),  # BK-SDM-Small
    ],
)
def test_other_unets_are_covered(architecture: str, changes: dict[str, Any], layers: int):
    unet = meta_unet(architecture, **changes)
    adapter = SunAdapter.for_unet(unet)
    assert len(adapter.names) == layers
    adapter.bind(unet)


def test_official_prefixes_are_the_places_among_all_processors(sd15: Any):
    """Down, up, MID: the trap is that up1 (13, 15, 17) and mid (31) have the same shapes."""
    prefixes = official_prefixes(shapes_of(sd15))
    everything = list(sd15.attn_processors)
    assert {n: int(p) for n, p in prefixes.items()} == {
        name.removesuffix(".processor"): i for i, name in enumerate(everything) if "attn2" in name
    }
    by_prefix = {int(p): n for n, p in prefixes.items()}
    assert sorted(by_prefix) == list(range(1, 32, 2))
    assert all(by_prefix[i].startswith("up_blocks.1.") for i in (13, 15, 17))
    assert by_prefix[31].startswith("mid_block.")
    assert by_prefix[1].startswith("down_blocks.0.")
    assert by_prefix[29].startswith("up_blocks.3.attentions.2.")


def test_released_layout_names_its_128_tensors(sd15: Any, tmp_path: Path):
    """As the released file has them; zeros of the right shapes."""
    adapter = SunAdapter.for_unet(sd15, add_pos=True)
    prefixes = official_prefixes(adapter.names)
    layer = adapter.get_submodule(next(iter(prefixes)))
    keys = {f"{p}.{leaf}" for p in prefixes.values() for leaf in layer.state_dict()}
    assert len(keys) == 128
    assert {k.split(".", 1)[1] for k in keys} == {
        f"to_{kv}_{b}.weight" for kv in "kv" for b in ("neg", "extra_pos")
    } | {f"to_k_{b}_{v}" for b in ("neg", "extra_pos") for v in ("alpha", "beta")}


@pytest.mark.parametrize("layout", ["sunbench", "official"])
@pytest.mark.parametrize("add_pos", [False, True])
def test_round_trip(layout: str, add_pos: bool, pipe: Any, randomly: Randomly, tmp_path: Path):
    adapter = randomly(pipe.unet, add_pos=add_pos, norm="token")
    path = tmp_path / "a.safetensors"
    write_adapter(adapter, path, layout=layout)
    again = read_adapter(path, pipe.unet)
    assert (again.norm, again.add_pos) == ("token", add_pos)
    assert about_adapter(path) == (adapter.form, "token")
    assert read_adapter(path, pipe.unet, norm="batch").norm == "batch"
    want, restored = adapter.state_dict(), again.state_dict()
    assert want.keys() == restored.keys()
    assert all(torch.equal(want[k], restored[k]) for k in want)


def test_a_file_in_the_released_layout_lands_on_its_layers(
    pipe: Any, randomly: Randomly, tmp_path: Path
):
    """Made as the authors' code makes it, a module list over all processors, without metadata."""
    adapter = randomly(pipe.unet, add_pos=True)
    tensors = {}
    for i, name in enumerate(pipe.unet.attn_processors):
        name = name.removesuffix(".processor")
        if name in cross_attentions(pipe.unet):
            for leaf, value in adapter.get_submodule(name).state_dict().items():
                tensors[f"{i}.{leaf}"] = value.half()
    save_file(tensors, tmp_path / "official.safetensors")
    again = read_adapter(tmp_path / "official.safetensors", pipe.unet)
    assert again.norm == "sample"
    for key, value in adapter.state_dict().items():
        assert torch.equal(again.state_dict()[key], value.half().float())


def test_half_precision_files_are_read_in_float32(pipe: Any, randomly: Randomly, tmp_path: Path):
    write_adapter(randomly(pipe.unet), tmp_path / "a.safetensors", dtype=torch.float16)
    assert {t.dtype for t in load_file(tmp_path / "a.safetensors").values()} == {torch.float16}
    assert {p.dtype for p in read_adapter(tmp_path / "a.safetensors", pipe.unet).parameters()} == {
        torch.float32
    }


def lacking(t: dict[str, Any]) -> None:
    del t[min(t)]


def extra(t: dict[str, Any]) -> None:
    t["what.is.this"] = torch.zeros(1)


def integers(t: dict[str, Any]) -> None:
    t[min(t)] = t[min(t)].to(torch.int32)


def infinite(t: dict[str, Any]) -> None:
    t[min(t)][0] = float("inf")


def wider(t: dict[str, Any]) -> None:
    for key in t:
        if key.endswith("weight"):
            t[key] = torch.zeros(t[key].shape[0], 48)


def fewer_layers(t: dict[str, Any]) -> None:
    for key in [k for k in t if k.startswith("mid_block")]:
        del t[key]


def nothing(t: dict[str, Any]) -> None:
    t.clear()
    t["lora.down"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lacking, r"lacks 1 of 16 tensors, such as down_blocks\.0"),
        (extra, r"has in excess 1 of 16 tensors, such as what\.is\.this"),
        (integers, r"is I32, expected a floating point dtype"),
        (infinite, r"not finite"),
        (
            wider,
            r"another architecture, 4 cross-attentions of text width 48; expected 4 .* width 32",
        ),
        (fewer_layers, r"another architecture, 3 cross-attentions .* expected 4 cross"),
        (nothing, r"holds no SUN adapter \(first tensor: 'lora\.down'\)"),
    ],
)
def test_bad_files_in_one_line(
    spoil: Callable[[dict[str, Any]], None],
    message: str,
    pipe: Any,
    randomly: Randomly,
    tmp_path: Path,
):
    path = tmp_path / "bad.safetensors"
    write_adapter(randomly(pipe.unet), path)
    tensors = load_file(path)
    spoil(tensors)
    save_file(tensors, path)
    with pytest.raises(UserError, match=message) as caught:
        read_adapter(path, pipe.unet)
    assert "\n" not in str(caught.value)


def test_pickles_are_refused(pipe: Any, tmp_path: Path):
    torch.save({"1.to_k_neg.weight": torch.zeros(2, 2)}, tmp_path / "sun.bin")
    (tmp_path / "sun.safetensors").write_bytes((tmp_path / "sun.bin").read_bytes())
    for name in ("sun.bin", "sun.safetensors"):
        with pytest.raises(UserError, match="a pickle can run code"):
            read_adapter(tmp_path / name, pipe.unet)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"norm": "layer"}, "unknown norm"), ({"init": "zeros"}, "unknown init")],
)
def test_unknown_words(settings: dict[str, Any], message: str, pipe: Any):
    with pytest.raises(UserError, match=message):
        SunAdapter.for_unet(pipe.unet, **settings)


def test_unknown_layout(pipe: Any, randomly: Randomly, tmp_path: Path):
    with pytest.raises(UserError, match="unknown layout"):
        write_adapter(randomly(pipe.unet), tmp_path / "a.safetensors", layout="official2")


def test_initial_weights_are_the_bases_or_drawn_from_the_seed(pipe: Any):
    copied = SunAdapter.for_unet(pipe.unet, add_pos=True)
    for name, attn in cross_attentions(pipe.unet).items():
        layer = copied.get_submodule(name)
        assert torch.equal(layer.to_k_neg.weight, attn.to_k.weight)
        assert torch.equal(layer.to_v_extra_pos.weight, attn.to_v.weight)
        assert layer.to_k_neg.weight.data_ptr() != attn.to_k.weight.data_ptr()
    a, b, c = (
        SunAdapter.for_unet(pipe.unet, init="random", seed=s).state_dict() for s in (1, 1, 2)
    )
    key = next(k for k in a if k.endswith("weight"))
    assert torch.equal(a[key], b[key])
    assert not torch.equal(a[key], c[key])
