"""The model card of trained weights: what they are, how they were trained, what they measured.

A README.md with YAML front matter, as a hub shows it; made from training.json and results.json
alone. (The suite's own cards, in TOML, are ``sunbench.models.ModelCard``.)
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from sunbench import registry
from sunbench.errors import UserError
from sunbench.models import cards
from sunbench.report.data import model_names, read_run
from sunbench.report.formats import markdown_table, plain
from sunbench.report.headline import headline
from sunbench.store import ResultRow, RunFolder, TrainingRequirements, key, write_atomic
from sunbench.store.files import JsonObject, make_folder
from sunbench.store.names import file_stems
from sunbench.training.record import check_training, read_training

#: Of training.json, what is said elsewhere in the card.
ELSEWHERE = ("schema_version", "method", "base", "base_sha256", "cost", "learned_guidance")
WHERE = {
    "once per base": "Trained once on a base; plugged into that base's fine-tunes as it is.",
    "once per model": "Trained for one model; each fine-tune needs a training of its own.",
}
PLACES = (
    "`WEIGHTS` is the file or folder beside this page, or the id of its repository; `MODEL` is the"
    " base or a fine-tune."
)
PROTOCOL = (
    "Distances are to the model's own 25 steps of DPM-Solver++; 95 % intervals by bootstrap over"
    " prompts. The prompts were not trained on where they are the zoo's."
)
#: Identifiers of licenses that the hub knows and cards name.
HUB_LICENSES = ("apache-2.0", "mit", "creativeml-openrail-m", "openrail++")
NEGATIVE = {
    True: "A negative prompt acts.",
    False: "A negative prompt has no effect.",
}


def front_matter(document: JsonObject, rows: Iterable[ResultRow] = ()) -> str:
    """The YAML that a hub reads: license, base model, and a model-index of measured rows."""
    base = cards().get(document["base"])
    results = [_eval_result(r) for r in rows if r.value is not None]
    name = f"{document['method']} for {document['base']}"
    data = ModelCardData(
        license=None if base is None else hub_license(base.license),
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["sunbench", "accelerator", document["method"]],
        base_model=base.id.partition(":")[0] if base is not None and base.source == "hub" else None,
        model_name=" ".join(name.split()) if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml(line_break=chr(10)).strip()}\n---"


def hub_license(words: str) -> str:
    """The hub's identifier of a card's license: "CreativeML OpenRAIL-M" -> creativeml-openrail-m.

    "other" for what does not begin with a license that the hub knows.
    """
    first = re.split(r"[;,(]", words)[0].strip().lower().replace(" ", "-")
    return first if first in HUB_LICENSES else "other"


def _eval_result(row: ResultRow) -> EvalResult:
    return EvalResult(
        task_type="text-to-image",
        dataset_type="prompts",
        dataset_name=f"{row.prompts}, {row.n} images",
        metric_type=row.metric.partition("[")[0],
        metric_name=f"{row.metric} on {row.model} at {row.steps} steps",
        metric_value=row.value,
    )


def _guidance(document: JsonObject) -> str:
    low, high = document.get("learned_guidance") or [document.get("guidance_scale")] * 2
    if low is None:
        return "Which guidance scale it learned is not written down."
    if low == high:
        return f"It learned guidance {low:g}, and holds that whatever is asked."
    return f"It learned guidance scales from {low:g} to {high:g}, and takes one as an input."


def _training(document: JsonObject) -> list[str]:
    cost = document.get("cost", {})
    names = {"images": "images seen", "seconds": "seconds in its updates", "steps": "updates"}
    lines = [["parameters trained", f"{cost['parameters']:,}"]] if "parameters" in cost else []
    lines += [[text, f"{cost[name]:,.0f}"] for name, text in names.items() if name in cost]
    data = {"training data": document.get("data"), "resolution": document.get("resolution")}
    lines += [[name, str(value)] for name, value in data.items() if value is not None]
    settings = {k: v for k, v in document.items() if k not in ELSEWHERE}
    return [
        markdown_table(["training", ""], lines) if lines else "What it cost is not written down.",
        "<details><summary>Settings</summary>\n\n```json\n"
        + json.dumps(settings, indent=1, ensure_ascii=False).replace("```", "")
        + "\n```\n\n</details>",
    ]


def measured(rows: Iterable[ResultRow], used: Sequence[tuple[str, str]]) -> list[str]:
    """Lines of a run's headline tables, of (model, method) pairs and these models' references."""
    mine = [r for r in rows if (r.model, r.method) in used or _is_yardstick(r, used)]
    parts = []
    for model in model_names(mine):
        own = [r for r in mine if r.model == model]
        head, lines = headline(own, model)
        about = f"`{plain(model)}`, {own[0].n} images per row, prompts {plain(own[0].prompts)}:"
        parts += [about, markdown_table(head, lines)]
    return parts


def _is_yardstick(row: ResultRow, used: Sequence[tuple[str, str]]) -> bool:
    """Whether a row is the reference's or the floor's of a model where the weights were used."""
    return row.role != "candidate" and row.model in {model for model, _ in used}


def weights_card(
    document: JsonObject,
    rows: Sequence[ResultRow] = (),
    used: Sequence[tuple[str, str]] = (),
) -> str:
    """The card as text.

    document: a training.json; rows: a run's results; used: the (model, method) pairs of that run
    that used these weights. UserError for a document without method and base.
    """
    method, base = document.get("method"), document.get("base")
    if not isinstance(method, str) or not isinstance(base, str):
        raise UserError("given a training.json without method and base, expected both")
    check_training(document, "training.json")
    entry, accelerator = registry.method_entry(method), registry.method(method)
    own = [r for r in rows if (r.model, r.method) in used and r.role == "candidate"]
    results = measured(rows, used) if own else []
    paper = f" ({entry.paper})" if entry.paper else ""
    wheres = WHERE.get(getattr(accelerator, "training", ""), "")
    negative = NEGATIVE[bool(getattr(accelerator, "negative_prompts", False))]
    parts = [
        front_matter(document, own),
        f"# {method} for {plain(base)}",
        f"{entry.summary}{paper}. {wheres}",
        f"{_guidance(document)} {negative}",
        "## Use",
        f"```sh\nsunbench run --methods {method},dpm++ --models MODEL"
        f" --weights {method}=WEIGHTS\n```",
        PLACES,
        "## Training",
        *_training(document),
        "## Measured",
        *(results or ["Not measured yet."]),
    ]
    return "\n\n".join([*parts, *[PROTOCOL] * bool(results)]) + "\n"


def write_beside(folder: Path) -> Path:
    """README.md of a training's folder, not yet measured."""
    source = folder / "training.json"
    document = read_training(source)
    path = folder / "README.md"
    write_atomic(path, weights_card(document).encode())
    return path


def write_cards(run: RunFolder) -> list[Path]:
    """``cards/METHOD.md`` for all trained weights of a finished run, with what it measured.

    Weights that were trained on one model alone have a card each, ``METHOD-MODEL.md``. UserError
    where no weights say how they were trained.
    """
    data = read_run(run)
    groups: dict[str, list[TrainingRequirements]] = {}
    for need in data.requirements:
        if need.document:
            groups.setdefault(json.dumps(need.document, sort_keys=True), []).append(need)
    if not groups:
        raise UserError(f"{run.path}: no weights in this run say how they were trained")
    folder = run.path / "cards"
    make_folder(folder)
    documents = {text: json.loads(text) for text in groups}
    names = _names(documents)
    stems = file_stems(names.values())
    written = []
    for text, same in groups.items():
        used = [(n.model, n.method) for n in same]
        path = folder / f"{stems[names[text]]}.md"
        write_atomic(path, weights_card(documents[text], data.rows, used).encode())
        written.append(path)
    return written


def _names(documents: Mapping[str, JsonObject]) -> dict[str, str]:
    """A name of its own per document: the method, with its base and a key where that is needed."""
    names = {text: str(d.get("method")) for text, d in documents.items()}
    methods = Counter(names.values())
    for text, d in documents.items():
        if methods[names[text]] > 1:
            names[text] += f" {d.get('base')}"
    taken = Counter(names.values())
    return {t: n if taken[n] == 1 else f"{n} {key(t)[:8]}" for t, n in names.items()}
