"""From a table and options to runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sunbench.errors import UserError
from sunbench.paper.catalogue import entries, find_entry
from sunbench.paper.plan import Options, adapter_of, default_models, jobs, map_models, steps_of

ZOO = ("emoji-3d", "emoji-flat", "emoji-line")


def plan(name: str, *models: str, **options):
    entry, asked = find_entry(name), Options(models=models, **options)
    return {j.part.name: j for j in jobs(entry, map_models(entry, models), asked, Path("run"))}


def test_sd_cards_get_the_papers_protocol():
    request = plan("sun-2", "paper")[""].request
    assert request.models == ("realistic_v5.1", "rev_animated", "anything_v5")
    assert request.methods == ("ddim", "dpm++", "guided-distill", "lcm-lora", "sun")
    assert (request.steps, request.images, request.seeds) == ((4, 8), 30_000, (0, 1, 2))
    assert (request.guidance_scale, request.resolution) == (8.0, 512)
    assert (request.prompts, request.negatives, request.floor) == ("coco-30k", "none", True)


def test_zoo_models_get_the_same_in_small():
    request = plan("sun-2", "zoo")[""].request
    assert request.models == ZOO
    assert (request.images, request.seeds) == (900, (0, 1, 2))
    assert (request.guidance_scale, request.resolution, request.prompts) == (None, None, None)


def test_sun_1_has_lcm_and_twelve_steps():
    request = plan("sun-1")[""].request
    assert request.models == ("emoji",)
    assert "lcm" in request.methods
    assert request.steps == (4, 8, 12)


def test_boostdiff_runs_the_teacher_without_guidance_apart():
    parts = plan("boostdiff-1", "sd2.1-base")
    assert list(parts) == ["cfg", "no-cfg"]
    assert [p.request.guidance_scale for p in parts.values()] == [3.0, 1.0]
    assert parts["no-cfg"].request.methods == ("ddim", "dpm++")
    assert not parts["no-cfg"].request.floor
    assert len(parts["cfg"].request.methods) == 6
    assert parts["cfg"].request.steps == (20, 50)
    assert parts["cfg"].request.images == 10_000
    assert plan("boostdiff-1")["cfg"].request.guidance_scale is None
    assert plan("boostdiff-1")["no-cfg"].folder == Path("run/no-cfg")


@pytest.mark.parametrize("name", [n for n, e in entries().items() if e.kind in ("table", "figure")])
def test_every_part_is_a_valid_request(name: str):
    for models in (("zoo",), ("paper",)):
        for job in plan(name, *models).values():
            assert job.request.methods
            assert job.request.steps == steps_of(find_entry(name))


def test_options_win():
    request = plan("sun-2", "emoji-flat", images=8, seeds=(3, 4), prompts="parti", dtype="float16")
    asked = request[""].request
    assert (asked.models, asked.images, asked.seeds) == (("emoji-flat",), 8, (3, 4))
    assert (asked.prompts, asked.dtype) == ("parti", "float16")


def test_known_models_play_their_own_role_and_others_the_free_ones(tmp_path: Path):
    mine = tmp_path / "mine.toml"
    mine.write_text('name = "mine"\nsource = "folder"\nid = "x"\narchitecture = "zoo"\n')
    models = map_models(find_entry("sun-2"), (str(mine), "emoji-3d"))
    assert [(r.name, c.name) for r, c in zip(models.paper_models, models.cards, strict=True)] == [
        ("Realistic Vision v5.1", "emoji-3d"),
        ("Rev Animated", "mine"),
    ]
    assert models.card("Anything v5") is None


def test_wrong_casts_are_one_line():
    with pytest.raises(UserError, match="given 2 models, expected at most 1 for sun-1"):
        map_models(find_entry("sun-1"), ("emoji", "emoji-3d"))
    with pytest.raises(UserError, match="given zoo and other models for sun-2"):
        map_models(find_entry("sun-2"), ("emoji-3d", "rev_animated"))
    with pytest.raises(UserError, match="did you mean 'emoji-3d'"):
        map_models(find_entry("sun-2"), ("emoji3d",))


def test_the_zoo_is_the_default_without_a_gpu_or_without_the_weights(monkeypatch, tmp_path):
    assert default_models(find_entry("sun-2"), "cpu") == ZOO
    monkeypatch.setattr("sunbench.paper.plan._in_cache", lambda card: card.name != "anything_v5")
    assert default_models(find_entry("sun-2"), "cuda") == ZOO
    monkeypatch.setattr("sunbench.paper.plan._in_cache", lambda card: True)
    assert default_models(find_entry("sun-2"), "cuda")[0] == "realistic_v5.1"


def test_ablations_name_what_must_be_trained(tmp_path: Path):
    none, first, _ = find_entry("sun-4").part("p-0.1"), find_entry("sun-4").part("p-0.0"), None
    assert adapter_of(none, tmp_path) == (None, None)
    file, why = adapter_of(first, tmp_path)
    assert file is None
    assert why is not None
    assert "trained with p = 0.0 yet" in why
    assert "sun-p0.0.safetensors" in why
    (tmp_path / "sun-p0.0.safetensors").touch()
    assert adapter_of(first, tmp_path) == (tmp_path / "sun-p0.0.safetensors", None)
    (tmp_path / "sun.safetensors").touch()
    assert adapter_of(none, tmp_path) == (tmp_path / "sun.safetensors", None)
    assert adapter_of(none, None) == (None, None)


def test_every_ablation_has_a_recipe_that_trains_what_it_says():
    from sunbench.methods.sun.settings import read_settings

    folder = Path(__file__).parents[2] / "methods/recipes/ablations"
    default = read_settings(folder / "sun.toml", zoo=True)
    for name in ("sun-4", "sun-fig-7", "sun-fig-8", "sun-fig-9"):
        for part in find_entry(name).parts:
            if not part.adapter:
                continue
            settings = read_settings(folder / f"{part.adapter}.toml", zoo=True)
            key, value = part.train.split(" = ")
            assert str(getattr(settings, key)) == value.strip('"')
            assert settings.loop == default.loop
            assert settings.delta / settings.substeps == default.delta / default.substeps
