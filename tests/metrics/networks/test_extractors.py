"""Feature networks at tiny configurations: protocol, batches, identity, errors."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
)

from sunbench.errors import UserError
from sunbench.metrics import NotAvailable, clip_score, extractor, load_network
from sunbench.metrics.networks.dinov2 import DinoV2
from sunbench.metrics.networks.open_clip_ import OpenClip
from sunbench.metrics.networks.zoo_clip import ZooClip
from sunbench.metrics.perceptual import Perceptual
from sunbench.zoo.world.text import build_tokenizer


def images(n: int, size: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), generator=g, dtype=torch.uint8)


def zoo_folder(path, seed: int):
    tokenizer = build_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        image_size=64,
        patch_size=16,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
    )
    torch.manual_seed(seed)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16
    )
    CLIPModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> ZooClip:
    return ZooClip(zoo_folder(tmp_path_factory.mktemp("scorer"), 0))


@pytest.fixture(scope="module")
def dino() -> DinoV2:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    return DinoV2(Dinov2Model(config), "dinov2/tiny")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> OpenClip:
    import open_clip

    folder = tmp_path_factory.mktemp("configs")
    config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 20,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
    }
    (folder / "sunbench-tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    model = open_clip.create_model("sunbench-tiny", pretrained=None)
    return OpenClip(model, open_clip.get_tokenizer("sunbench-tiny"), "open-clip/tiny/random")


@pytest.fixture(params=["zoo", "dino", "clip"])
def net(request):
    return request.getfixturevalue(request.param)


def test_features_do_not_depend_on_the_batch(net):
    x = images(5, 64)
    together = net.embed(x)
    assert together.shape == (5, net.dim)
    assert together.dtype == torch.float32
    assert together.isfinite().all()
    alone = torch.cat([net.embed(x[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    net.batch, before = 2, net.batch
    torch.testing.assert_close(net.embed(x), together, rtol=1e-5, atol=1e-5)
    net.batch = before


def test_protocol_and_key_name_what_was_used(net):
    assert "float32" in net.protocol
    assert "resize" in net.protocol
    assert len(net.key) == 20


def test_only_8_bit_rgb_is_read(net):
    with pytest.raises(UserError, match="expected uint8"):
        net.embed(images(1, 64).float())
    with pytest.raises(UserError, match="expected uint8"):
        net.embed(images(1, 64)[:, :1])


def test_negative_and_black_pictures_move_features(net):
    x = images(3, 64)
    for changed in (255 - x, torch.zeros_like(x)):
        assert ((net.embed(changed) - net.embed(x)).norm(dim=1) > 1e-3).all()


def test_key_follows_the_weights(zoo, tmp_path):
    assert ZooClip(zoo_folder(tmp_path / "a", 0)).key == zoo.key
    assert ZooClip(zoo_folder(tmp_path / "b", 1)).key != zoo.key


def test_zoo_features_are_transformers_projections(zoo):
    x = images(2, 64)
    tokens = zoo.tokenizer(["a red apple"], return_tensors="pt")
    with torch.no_grad():
        out = zoo.model(pixel_values=x.float() / 127.5 - 1, input_ids=tokens.input_ids)
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(unit(zoo.embed(x)), out.image_embeds, rtol=1e-4, atol=1e-5)
    text = unit(zoo.embed_text(["a red apple"]))
    torch.testing.assert_close(text, out.text_embeds, rtol=1e-4, atol=1e-5)


def test_zoo_text_keeps_the_end_of_text_token(zoo):
    long = "a red apple on a teal background " * 5
    ids = zoo.tokenizer([long], truncation=True, max_length=zoo.context).input_ids[0]
    assert len(ids) == zoo.context
    assert ids[-1] == zoo.tokenizer.eos_token_id
    assert zoo.embed_text([long, "a"]).shape == (2, zoo.dim)


def test_zoo_layers_and_distance(zoo):
    a, b = images(3, 64), images(3, 64, 1)
    layers = zoo.layers(a)
    assert [tuple(layer.shape) for layer in layers] == [(3, 32, 4, 4)] * 3
    same, other = (Perceptual().paired_scores(a, x, zoo) for x in (a, b))
    assert (same == 0).all()
    assert (other > 0.01).all()


def test_zoo_reads_other_sizes_through_the_clean_resize(zoo):
    flat = torch.full((1, 3, 64, 64), 90, dtype=torch.uint8)
    large = torch.full((1, 3, 200, 200), 90, dtype=torch.uint8)
    torch.testing.assert_close(zoo.embed(large), zoo.embed(flat), rtol=1e-4, atol=1e-5)


def test_zoo_without_a_model_says_so(tmp_path):
    with pytest.raises(UserError, match="expected a folder with a CLIP model"):
        ZooClip(tmp_path)


@pytest.mark.oracle
@pytest.mark.parametrize("shape", [(64, 64), (32, 32), (70, 90)])
def test_open_clip_input_is_its_own_transform(clip, shape):
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = PreprocessCfg(**open_clip.get_model_preprocess_cfg(clip.model))
    transform = image_transform_v2(config, is_train=False)
    x = images(2, 96)[:, :, : shape[0], : shape[1]]
    theirs = torch.stack([transform(Image.fromarray(p.permute(1, 2, 0).numpy())) for p in x])
    wrong = (clip.pixels(x) - theirs).abs()
    assert wrong.max() < 1 / 255 / 0.25  # one gray level over the deviation
    assert (wrong > 1e-5).float().mean() < 1e-3


@pytest.mark.oracle
def test_clip_score_is_open_clips_own(clip):
    x, texts = images(3, 32), ["a cat", "a red apple", "an apple " * 30]
    with torch.no_grad():
        a = clip.model.encode_image(clip.pixels(x), normalize=True)
        b = clip.model.encode_text(clip.tokenizer(texts), normalize=True)
    assert a.isfinite().all()
    ours = clip_score(clip.embed(x).numpy(), clip.embed_text(texts).numpy())
    np.testing.assert_allclose(ours, 100 * (a * b).sum(1).numpy(), atol=1e-4)


def test_open_clip_truncation_keeps_the_end_of_text_token(clip):
    import open_clip

    ids = clip.tokenizer(["an apple " * 30])[0]
    assert ids[-1] == open_clip.tokenizer._tokenizer.eot_token_id


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zoo-clop", "did you mean 'zoo-clip'"),
        ("dinov2/vitl15", "did you mean 'dinov2/vitl14'"),
        ("open-clip/ViT-g-14/laion2b_s34b", "did you mean 'open-clip/ViT-g-14/laion2b_s34b_b88k'"),
    ],
)
def test_unknown_names_have_a_nearest_match(name, message):
    with pytest.raises(UserError, match=message):
        extractor(name)


def test_unknown_perceptual_distance():
    with pytest.raises(UserError, match="did you mean 'alex'"):
        load_network("alx")


def test_a_network_that_offers_something_else_is_refused():
    with pytest.raises(UserError, match="given network alex, expected one with image: zoo-clip"):
        extractor("alex")


@pytest.mark.parametrize(
    ("name", "loader"),
    [
        ("dinov2/vits14", "transformers.AutoModel.from_pretrained"),
        ("open-clip/ViT-B-32/openai", "open_clip.create_model"),
        ("inception", "torch.hub.download_url_to_file"),
    ],
)
def test_weights_out_of_reach_say_so(name, loader, monkeypatch, tmp_path):
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(loader, unreachable)
    with pytest.raises(NotAvailable, match="weights not available offline: ") as error:
        extractor(name)
    assert "\n" not in str(error.value)
