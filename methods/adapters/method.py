"""A published LoRA, merged, under the scheduler that it was made for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from sunbench.errors import NotAvailable, UserError
from sunbench.methods.adapters.spec import AdapterSpec, adapter_spec, parse_adapter
from sunbench.methods.common.cards import published_cards
from sunbench.methods.common.lora import lora_layers, with_lora
from sunbench.methods.common.method import DistilledMethod, check_plain, trained_guidance
from sunbench.methods.common.weights import Weights
from sunbench.models.hashes import file_hash
from sunbench.models.protocols import Pipeline
from sunbench.sampling import PipelineSampler, SampleSettings, SolverSpec

ANY = 0


@dataclass(frozen=True)
class AdapterMethod(DistilledMethod):
    """A LoRA by its spec; per_steps: the repository's file for a number of steps, 0 for any.

    license: what the weights' repository states; "" where nobody looked.
    """

    spec: AdapterSpec = field(kw_only=True)
    per_steps: tuple[tuple[int, str], ...] = ()
    license: str = ""

    @property
    def keeps_guidance(self) -> bool:
        """Whether classifier-free guidance acts on top."""
        return self.spec.settings["guidance"] == "cfg"

    @property
    def negative_prompts(self) -> bool:
        """Under guidance on top alone."""
        return self.keeps_guidance

    def used(self, pipeline: Pipeline, settings: SampleSettings) -> Path:
        """The file for these steps."""
        return self._weights(settings).find(pipeline.unet)

    def trained_weights(self, pipeline: Pipeline) -> tuple[Path, str] | None:
        """Those for any number of steps, or for the first one that there is a file for."""
        steps = self.per_steps[0][0] if self.per_steps else ANY
        return self._weights(SampleSettings(max(1, steps), 1.0)).find(pipeline.unet), self.name

    def _weights(self, settings: SampleSettings) -> Weights:
        """UserError for a number of steps without a file, unless the user names one."""
        files = dict(self.per_steps)
        file = files.get(settings.asked, files.get(ANY))
        if file is None and files and not self._has_own_file():
            known = ", ".join(map(str, sorted(files)))
            raise NotAvailable(f"no weights for {settings.asked} steps, there are some for {known}")
        return self.weights if file is None else replace(self.weights, file=file)

    def _has_own_file(self) -> bool:
        """Whether the named weights are a file, which then stands for every number of steps."""
        named = self.weights.explicit
        return named is not None and named.partition("@")[0].endswith(".safetensors")

    def check(self, pipeline: Pipeline, settings: SampleSettings) -> None:
        """A plain U-Net, every key of the file in its place, and the guidance that it imitates."""
        check_plain(pipeline.unet)
        if self.keeps_guidance and not settings.guidance_scale > 1:
            raise UserError(
                f"guidance_scale {settings.guidance_scale:g} asks for one pass without a negative"
                f" prompt, this LoRA takes two"
            )
        path = self.used(pipeline, settings)
        lora_layers(path, pipeline.unet, alpha_is_rank=self._alpha_is_rank)
        trained = trained_guidance(path)
        if not self.keeps_guidance and trained not in (None, settings.guidance_scale):
            raise UserError(
                f"guidance_scale {settings.guidance_scale:g} asked, the weights hold {trained:g}"
            )

    @property
    def _alpha_is_rank(self) -> bool:
        return self.spec.settings["alpha"] == "rank"

    def network(self, pipeline: Pipeline, settings: SampleSettings) -> Any:
        """The U-Net with the LoRA merged in."""
        path = self.used(pipeline, settings)
        return with_lora(pipeline.unet, path, alpha_is_rank=self._alpha_is_rank)

    def scale(self, settings: SampleSettings) -> float:
        """The run's scale under guidance, else one conditional pass."""
        return settings.guidance_scale if self.keeps_guidance else 1.0

    def evaluations(self, settings: SampleSettings) -> int:
        """U-Net evaluations: two per step under guidance, one without."""
        return settings.steps * (2 if self.keeps_guidance else 1)

    def describe(self, path: Path) -> dict[str, object]:
        """The weights by hash, and by the alpha that is supplied."""
        own = {"alpha": "rank"} if self._alpha_is_rank else {}
        return {"sha256": file_hash(path), **own}

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, object]:
        """All that shapes the method's images, for the cell's key."""
        eta = float(self.spec.settings.get("eta", 0.0))
        own = {"eta": eta} if eta else {}
        negative = "cfg" if self.keeps_guidance else "none"
        return {**super().content(pipeline, settings), "negative": negative, **own}

    def prepare(self, pipeline: Pipeline, settings: SampleSettings) -> PipelineSampler:
        """Put the merged U-Net beside the pipeline's; UserError where ``skip`` has a reason."""
        sampler = super().prepare(pipeline, settings)
        if eta := float(self.spec.settings.get("eta", 0.0)):
            sampler.more = {"eta": eta}
        return sampler

    def with_weights(self, explicit: str | None, unet_sha256: str | None) -> Self:
        """As every trained method; a name's own LoRA stays."""
        return super().with_weights(explicit or self.weights.explicit, unet_sha256)


def _method(
    name: str,
    spec: AdapterSpec,
    weights: Weights,
    per_steps: tuple[tuple[int, str], ...] = (),
    license: str = "",
) -> AdapterMethod:
    solver = SolverSpec.of(spec.kind.kind, dict(spec.scheduler_settings()))
    return AdapterMethod(
        name,
        solver,
        weights,
        spec.kind.grid,
        spec=spec,
        per_steps=per_steps,
        license=license,
    )


def named(name: str) -> AdapterMethod:
    """The method of a name ``lora:WEIGHTS@SCHEDULER(settings)``."""
    spec = parse_adapter(name)
    return _method(name, spec, Weights("lora", explicit=spec.where))


def published_adapter(name: str) -> AdapterMethod:
    """The method of a card."""
    card = published_cards("adapters")[name]
    spec = adapter_spec("", card["scheduler"], card.get("settings", {}))
    per_steps = tuple(
        (ANY if steps == "any" else int(steps), file) for steps, file in card["files"].items()
    )
    first = dict(per_steps).get(ANY, per_steps[0][1])
    weights = Weights(name, published=card["repository"], file=first)
    return _method(name, spec, weights, per_steps, card["license"])


def hyper_sd() -> AdapterMethod:
    """Hyper-SD (Ren et al. 2024), a LoRA per number of steps."""
    return published_adapter("hyper-sd")


def hyper_sd_cfg() -> AdapterMethod:
    """Hyper-SD's LoRAs under guidance."""
    return published_adapter("hyper-sd-cfg")


def tcd_lora() -> AdapterMethod:
    """TCD-LoRA (Zheng et al. 2024)."""
    return published_adapter("tcd-lora")


def pcm_lora() -> AdapterMethod:
    """PCM-LoRA (Wang et al. 2024) for small guidance: one pass."""
    return published_adapter("pcm-lora")


def pcm_lora_cfg() -> AdapterMethod:
    """PCM-LoRA for normal guidance: two passes."""
    return published_adapter("pcm-lora-cfg")


def flash_sd() -> AdapterMethod:
    """Flash Diffusion (Chadebec et al. 2024)."""
    return published_adapter("flash-sd")
