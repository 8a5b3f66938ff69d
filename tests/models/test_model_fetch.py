"""`sunbench fetch`: the real hub client against a hub on this machine."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sunbench.cli import main
from sunbench.errors import NotAvailable, UserError
from sunbench.models import ModelCard, find_model, load
from sunbench.models import fetch as module
from sunbench.models.fetch import (
    Download,
    Need,
    bring,
    check_room,
    look_up,
    method_needs,
    model_needs,
)
from sunbench.models.vae import DEFAULT_VAE

REPOSITORY, LORA, VAE = "artist/style", "artist/lora", DEFAULT_VAE["sd1"]
VAE_REPOSITORY, _, VAE_REVISION = VAE.partition("@")
UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Published:
    published: str
    file: str
    folders: bool
    revision: str | None = None


@pytest.fixture
def hub_with_model(hub: Any, sd1_folder: Path, other_folder: Path, tmp_path: Path) -> Any:
    folder = Path(shutil.copytree(sd1_folder, tmp_path / "repository"))
    (folder / "sample.png").write_bytes(b"unwanted")
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"pickle")
    hub.add(REPOSITORY, folder)
    hub.add(VAE_REPOSITORY, other_folder / "vae", VAE_REVISION)
    hub.licenses[REPOSITORY] = "creativeml-openrail-m"
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "style.safetensors").write_bytes(b"x" * 100)
    (lora / "other.safetensors").write_bytes(b"unwanted")
    hub.add(LORA, lora)
    return hub


def downloads(card: ModelCard) -> list[Download]:
    return [look_up(need) for need in model_needs(card)]


def brought(pending: Sequence[Download]) -> dict[str, int]:
    done: dict[str, int] = {}
    for download in pending:
        bring(download, done.__setitem__)
    return done


def test_all_that_a_model_needs_and_nothing_else(hub_with_model: Any) -> None:
    model, vae = downloads(find_model(REPOSITORY))
    assert (model.need.what, vae.need.what) == ("model", "VAE")
    assert model.license == "creativeml-openrail-m"
    assert vae.license == "not stated"
    assert UNET_FILE in model.missing
    assert not {"sample.png", "unet/diffusion_pytorch_model.bin"} & set(model.sizes)
    assert not any(name.startswith("vae/") and "safe" in name for name in model.sizes)
    size = (hub_with_model.repositories[REPOSITORY]["main"] / UNET_FILE).stat().st_size
    assert model.sizes[UNET_FILE] == size
    # of a card whose architecture is not known, the configs were read already
    assert set(model.missing) == {name for name in model.sizes if name.endswith("safetensors")}
    assert model.bytes_missing == sum(model.sizes[name] for name in model.missing) > size
    assert brought([model, vae]).keys() == {*model.missing, *vae.missing}


def test_what_was_fetched_runs_offline(hub_with_model: Any, monkeypatch: Any) -> None:
    from huggingface_hub import constants

    card = find_model(REPOSITORY)
    brought(downloads(card))
    assert [d.missing for d in downloads(card)] == [(), ()]
    sent = len(hub_with_model.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load(card).vae == VAE
    assert len(hub_with_model.requests) == sent


def test_a_download_goes_on_where_it_broke_off(hub_with_model: Any) -> None:
    hub_with_model.down.add(UNET_FILE)
    first = downloads(find_model(REPOSITORY))
    with pytest.raises(UserError, match="broke off"):
        brought(first)
    hub_with_model.down.clear()
    again = downloads(find_model(REPOSITORY))
    assert again[0].missing[-1:] != ()
    assert set(again[0].missing) < set(first[0].missing)
    assert UNET_FILE in brought(again)


def test_loras_and_a_base_for_a_unet(hub_with_model: Any) -> None:
    card = replace(
        find_model(REPOSITORY),
        vae="own",
        loras=((f"{LORA}:style.safetensors", 1.0),),
        unet_into=VAE,
    )
    whats = [need.what for need in model_needs(card)]
    assert whats == ["model", "base model", "LoRA"]
    lora = look_up(list(model_needs(card))[2])
    assert lora.sizes == {"style.safetensors": 100}
    model = look_up(next(model_needs(card)))
    assert UNET_FILE in model.sizes
    assert not any("text_encoder" in name and "safe" in name for name in model.sizes)


@pytest.mark.parametrize("source", ["zoo", "folder"])
def test_local_models_need_nothing(source: str, sd1_folder: Path) -> None:
    card = (
        find_model("emoji") if source == "zoo" else replace(find_model(str(sd1_folder)), vae="own")
    )
    assert list(model_needs(card)) == []


def test_weights_of_methods(hub: Any, sd1_folder: Path, tmp_path: Path) -> None:
    hub.add("authors/student", sd1_folder)
    folder = Published("authors/student", UNET_FILE, True)
    (need,) = method_needs("lcm", folder)
    assert need.what == "weights of lcm"
    assert set(look_up(need).sizes) == {"unet/config.json", UNET_FILE}
    (need,) = method_needs("sun", Published("authors/student", UNET_FILE, False))
    assert set(look_up(need).sizes) == {UNET_FILE}
    assert list(method_needs("boostdiff-lora", Published("", "", False))) == []
    (need,) = method_needs("sun", Published("authors/student", "none.safetensors", False))
    with pytest.raises(UserError, match=r"no such file none\.safetensors"):
        look_up(need)


def test_a_full_disk_is_told_before_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    need = Need("model", REPOSITORY, None, list)
    download = Download(need, "mit", "0", {"a": 5 * 10**9, "b": 10**9}, ("a",))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**9))
    with pytest.raises(UserError, match=r"need 5\.0 GB, 1\.0 GB are free .*HF_HOME"):
        check_room([download])
    check_room([replace(download, missing=("b",))])


def test_without_the_hub_it_is_one_line(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="the hub has none"):
        downloads(find_model("nobody/nothing"))
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NotAvailable, match=r"artist/style is not available offline") as caught:
        downloads(find_model(REPOSITORY))
    assert "\n" not in str(caught.value)
    with pytest.raises(NotAvailable, match="the hub cannot be reached for artist/lora"):
        look_up(Need("LoRA", LORA, None, list))


def test_the_command(
    hub_with_model: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("COLUMNS", "200")
    loaded: list[str] = []

    def network(name: str, device: str) -> None:
        loaded.append(name)
        if name == "alex":
            raise NotAvailable("weights not available offline: alex")

    monkeypatch.setattr("sunbench.metrics.load_network", network)
    monkeypatch.setattr(sys, "argv", ["sunbench", "fetch", REPOSITORY, "ddim", "--dry-run"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code in (0, None)
    text, notes = capsys.readouterr()
    assert "feature networks, not counted above: inception, " in text
    assert "revision NOT PINNED" in notes
    assert loaded == []
    assert "artist/style" in text
    assert "creativeml-openrail-m" in text
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.safetensors"))
    monkeypatch.setattr(sys, "argv", ["sunbench", "fetch", REPOSITORY, "ddim"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code in (0, None)
    assert [d.missing for d in downloads(find_model(REPOSITORY))] == [(), ()]
    assert {"inception", "alex"} <= set(loaded)
    text, notes = capsys.readouterr()
    assert "feature network inception: available" in text
    assert "feature network alex: weights not available offline: alex" in notes
