"""The real hub client against a hub on this machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from sunbench.errors import UserError
from sunbench.models import find_model, load
from sunbench.models.hub import NotAvailable
from sunbench.models.vae import DEFAULT_VAE

REPOSITORY = "artist/style"
VAE = DEFAULT_VAE["sd1"]
VAE_REPOSITORY, _, VAE_REVISION = VAE.partition("@")
UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


def commit(repository: str, revision: str) -> str:
    return hashlib.sha1(f"{repository}@{revision}".encode()).hexdigest()


@pytest.fixture
def repository(hub: Any, sd1_folder: Path, other_folder: Path, tmp_path: Path) -> Path:
    """A community repository as they are: fp16 beside fp32, pickles, a safety checker, samples."""
    folder = Path(shutil.copytree(sd1_folder, tmp_path / "repository"))
    half = {name: tensor.half() for name, tensor in load_file(folder / UNET_FILE).items()}
    save_file(half, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"unwanted")
    (folder / "sample.png").write_bytes(b"unwanted")
    (folder / "style.safetensors").write_bytes(b"unwanted")
    hub.add(REPOSITORY, folder)
    hub.add(REPOSITORY, other_folder, "v1")
    hub.add(VAE_REPOSITORY, other_folder / "vae", VAE_REVISION)
    return folder


def fails(spec: str, expected: str, kind: type[UserError] = UserError) -> None:
    with pytest.raises(kind, match=expected) as error:
        load(replace(find_model(spec), vae="own"))
    assert "\n" not in str(error.value)


def test_only_what_is_needed_is_fetched(hub: Any, repository: Path, sd1_folder: Path) -> None:
    loaded = load(find_model(REPOSITORY))
    assert loaded.vae == VAE
    assert loaded.card.architecture == "sd1"
    assert loaded.revision == commit(REPOSITORY, "main")
    weights = [name for name in hub.downloads() if name.endswith(("safetensors", "bin"))]
    assert sorted(weights) == [
        "diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        UNET_FILE,
    ]
    assert not {"sample.png", "safety_checker/model.safetensors"} & set(hub.downloads())
    assert (
        loaded.hashes["unet"] == hashlib.sha256((sd1_folder / UNET_FILE).read_bytes()).hexdigest()
    )


def test_revisions_are_different_models(repository: Path) -> None:
    main, tagged = load(find_model(REPOSITORY)), load(find_model(f"{REPOSITORY}@v1"))
    pinned = load(find_model(f"{REPOSITORY}@{commit(REPOSITORY, 'v1')}"))
    assert main.hashes["unet"] != tagged.hashes["unet"]
    assert main.hashes["vae"] == tagged.hashes["vae"]
    assert pinned.hashes == tagged.hashes
    assert pinned.revision == tagged.revision == commit(REPOSITORY, "v1")


def test_variant_is_fetched_alone(hub: Any, repository: Path) -> None:
    load(replace(find_model(REPOSITORY), variant="fp16"))
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in hub.downloads()
    assert UNET_FILE not in hub.downloads()


def test_what_is_cached_is_not_fetched_again(hub: Any, repository: Path) -> None:
    first = load(find_model(REPOSITORY))
    sent = len(hub.downloads())
    assert load(find_model(REPOSITORY)).hashes == first.hashes
    assert len(hub.downloads()) == sent


@pytest.mark.parametrize("how", ["switch", "dead"])
def test_offline_uses_the_cache(
    hub: Any, repository: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    online = load(find_model(REPOSITORY))
    asked = len(hub.requests)
    if how == "switch":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    offline = load(find_model(REPOSITORY))
    assert offline.hashes == online.hashes
    assert offline.revision == online.revision
    assert len(hub.requests) == asked


@pytest.mark.parametrize("how", ["switch", "dead"])
def test_offline_without_cache_is_one_line(
    hub: Any, repository: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "switch":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    fails(REPOSITORY, "artist/style is not available offline.*fetch it once online", NotAvailable)


def test_a_half_cached_model_is_not_available(
    hub: Any, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.down.add(UNET_FILE)
    fails(REPOSITORY, "the download broke off", NotAvailable)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fails(REPOSITORY, "not available offline", NotAvailable)


def test_an_unreachable_vae_says_how_to_do_without(
    repository: Path, sd1_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NotAvailable, match=r"VAE: .*sd-vae-ft-mse.*vae = \"own\" keeps"):
        load(find_model(str(sd1_folder)))


def test_a_cut_download_goes_on_where_it_stopped(
    hub: Any, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client keeps whole chunks only, so small ones show that it resumes."""
    chunk = 2**16
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", chunk)
    hub.cut[UNET_FILE] = 1
    loaded = load(find_model(REPOSITORY))
    data = (repository / UNET_FILE).read_bytes()
    asked = [
        span for verb, path, span in hub.requests if verb == "GET" and path.endswith(UNET_FILE)
    ]
    assert asked == ["", f"bytes={len(data) // 2 // chunk * chunk}-"]
    assert loaded.hashes["unet"] == hashlib.sha256(data).hexdigest()


def test_a_failed_download_loses_nothing(hub: Any, repository: Path) -> None:
    hub.down.add(UNET_FILE)
    fails(REPOSITORY, "artist/style: the download broke off .*run the same command again")
    hub.down.clear()
    before = set(hub.downloads()) - {UNET_FILE}
    hub.requests.clear()
    loaded = load(replace(find_model(REPOSITORY), vae="own"))
    assert not before & set(hub.downloads())
    assert torch.isfinite(loaded.pipeline.unet.conv_in.weight).all()


def test_a_damaged_cache_is_named(hub: Any, repository: Path, tmp_path: Path) -> None:
    load(find_model(REPOSITORY))
    cached = next((tmp_path / "hub").rglob(UNET_FILE)).resolve()
    cached.write_bytes(cached.read_bytes()[:-1])
    fails(REPOSITORY, "broken safetensors file")


def test_what_the_hub_refuses_is_one_line(hub: Any, repository: Path) -> None:
    fails("artist/absent", "given model 'artist/absent', the hub has none")
    fails(f"{REPOSITORY}@v9", "given revision 'v9', model artist/style has none")
    fails("art--ist/x..y", "expected a hub id owner/name")
    fails(f"{REPOSITORY}:absent.safetensors", "no such file")
    hub.gated.add("closed/model")
    fails("closed/model", "is gated: accept its license")


def test_a_repository_of_pickles_is_refused_before_any_download(
    hub: Any, repository: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(repository, tmp_path / "pickles"))
    for path in (folder / "unet").glob("*.safetensors"):
        path.unlink()
    hub.add("old/pickles", folder)
    fails("old/pickles", r"only pickled weights \(.bin\) for unet.*convert")
    assert not [name for name in hub.downloads() if name.endswith((".bin", ".safetensors"))]


def test_a_repository_of_single_files_points_at_one(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "single").mkdir()
    (tmp_path / "single" / "v5.safetensors").write_bytes(b"0")
    hub.add("mix/files", tmp_path / "single")
    fails("mix/files", "no model_index.json.*owner/name:v5.safetensors")


def test_sdxl_is_refused_before_its_weights_are_fetched(
    hub: Any, build: Callable[..., Path], tmp_path: Path
) -> None:
    folder = build(tmp_path / "wide", width=32, seed=9)
    config = folder / "unet" / "config.json"
    config.write_text(
        config.read_text().replace('"cross_attention_dim": 32', '"cross_attention_dim": 2048')
    )
    hub.add("big/xl", folder)
    fails("big/xl", r"SDXL-shaped .* expected SD1.x")
    assert not [name for name in hub.downloads() if name.endswith(".safetensors")]


def test_a_lora_comes_from_the_hub(hub: Any, repository: Path, tmp_path: Path) -> None:
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    (tmp_path / "loras").mkdir()
    tensors = {
        f"{layer}.lora_A.weight": torch.ones(1, 32),
        f"{layer}.lora_B.weight": torch.ones(32, 1),
    }
    save_file(tensors, tmp_path / "loras" / "ink.safetensors")
    hub.add("artist/loras", tmp_path / "loras", "v2")
    loaded = load(
        replace(find_model(REPOSITORY), loras=(("artist/loras@v2:ink.safetensors", 0.5),))
    )
    plain = load(find_model(REPOSITORY)).pipeline.unet
    name = layer.removeprefix("unet.")
    moved = loaded.pipeline.unet.get_submodule(name).weight - plain.get_submodule(name).weight
    torch.testing.assert_close(moved, torch.full((32, 32), 0.5))


def test_the_environment_is_enough(hub: Any, repository: Path, tmp_path: Path) -> None:
    """A fresh process with HF_ENDPOINT and HF_HOME only, the way users point at a mirror."""
    code = (
        "from sunbench.models.hub import fetch_folder; import sys; "
        f"print(fetch_folder({REPOSITORY!r}, 'v1', lambda names: ['model_index.json'])); "
        "assert 'torch' not in sys.modules"
    )
    environment = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(tmp_path / "home")
    assert folder.name == commit(REPOSITORY, "v1")
    assert [path.name for path in folder.iterdir()] == ["model_index.json"]
