"""The model card of trained weights: what they are, how they were trained, what they measured.

A README.md with YAML front matter, as a hub shows it; made from training.json and results.json
alone. (The suite's own cards, in TOML, are ``sunbench.models.ModelCard``.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from sunbench import registry
from sunbench.errors import UserError
from sunbench.models import cards
from sunbench.report.tables import (
    FLOOR,
    headline,
    markdown_table,
    models,
    plain,
)
from sunbench.store import ResultRow, RunFolder, write_atomic
from sunbench.store.files import make_folder
from sunbench.store.runs import result_rows
from sunbench.training.record import check_training, read_training

#: Of training.json, what is said elsewhere in the card.
ELSEWHERE = ("schema_version", "method", "base", "base_sha256", "cost", "learned_guidance")
WHERE = {
    "once a base": "Trained once on a base; plugged into that base's fine-tunes as it is.",
    "once a model": "Trained for one model; each fine-tune needs a training of its own.",
}
NEGATIVE = {
    True: "A negative prompt acts.",
    False: "A negative prompt has no effect.",
}


def front_matter(document: dict[str, Any]) -> str:
    """The YAML that a hub reads."""
    base = cards().get(document["base"])
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["sunbench", "accelerator", document["method"]],
        base_model=base.id.partition(":")[0] if base is not None and base.source == "hub" else None,
    )
    return f"---\n{data.to_yaml(line_break=chr(10)).strip()}\n---"


def _guidance(document: dict[str, Any]) -> str:
    low, high = document.get("learned_guidance") or [document.get("guidance_scale")] * 2
    if low is None:
        return "Which guidance scale it learned is not written down."
    if low == high:
        return f"It learned guidance {low:g}, and holds that whatever is asked."
    return f"It learned guidance scales from {low:g} to {high:g}, and takes one as an input."


def _training(document: dict[str, Any]) -> list[str]:
    cost = document.get("cost", {})
    names = {"images": "pictures seen", "seconds": "seconds in its updates", "steps": "updates"}
    lines = [["parameters trained", f"{cost['parameters']:,}"]] if "parameters" in cost else []
    lines += [[text, f"{cost[name]:,.0f}"] for name, text in names.items() if name in cost]
    data = {"pictures": document.get("data"), "resolution": document.get("resolution")}
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
    wanted = {*used, *((model, name) for model, _ in used for name in ("reference", FLOOR))}
    mine = [r for r in rows if (r.model, r.method) in wanted]
    parts = []
    for model in models(mine):
        own = [r for r in mine if r.model == model]
        head, lines = headline(own, model)
        about = f"`{plain(model)}`, {own[0].n} pictures a row, prompts {plain(own[0].prompts)}:"
        parts += [about, markdown_table(head, lines)]
    return parts


def weights_card(document: dict[str, Any], results: Sequence[str] = ()) -> str:
    """The card as text.

    document: a training.json; results: parts in Markdown, by ``measured``. UserError for a
    document without method and base.
    """
    method, base = document.get("method"), document.get("base")
    if not isinstance(method, str) or not isinstance(base, str):
        raise UserError("given a training.json without method and base, expected both")
    check_training(document, "training.json")
    entry, made = registry.method_entry(method), registry.method(method)
    paper = f" ({entry.paper})" if entry.paper else ""
    wheres = WHERE.get(getattr(made, "training", ""), "")
    negative = NEGATIVE[bool(getattr(made, "negative_prompts", False))]
    parts = [
        front_matter(document),
        f"# {method} for {plain(base)}",
        f"{entry.summary}{paper}. {wheres}",
        f"{_guidance(document)} {negative}",
        "## Use",
        f"```sh\nsunbench run --methods {method},dpm++ --models MODEL"
        f" --weights {method}=WEIGHTS\n```",
        "`WEIGHTS` is the file or folder beside this page, or the id of its repository; `MODEL` is"
        " the base or a fine-tune.",
        "## Training",
        *_training(document),
        "## Measured",
        *(results or ["Not measured yet."]),
    ]
    if results:
        parts.append(
            "Distances are to the model's own 25 steps of DPM-Solver++; 95 % intervals by bootstrap"
            " over prompts. The prompts were not trained on where they are the zoo's."
        )
    return "\n\n".join(parts) + "\n"


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
    results = run.read_results_document()
    rows = result_rows(results, str(run.results_file))
    groups: dict[str, list[dict[str, Any]]] = {}
    for t in results.get("takes", []):
        if t.get("document"):
            groups.setdefault(json.dumps(t["document"], sort_keys=True), []).append(t)
    if not groups:
        raise UserError(f"{run.path}: no weights in this run say how they were trained")
    folder = run.path / "cards"
    make_folder(folder)
    documents = [same[0]["document"] for same in groups.values()]
    written = []
    for document, same in zip(documents, groups.values(), strict=True):
        several = sum(d["method"] == document["method"] for d in documents) > 1
        parts = measured(rows, [(t["model"], t["method"]) for t in same])
        path = folder / f"{_file_name(document, several)}.md"
        write_atomic(path, weights_card(document, parts).encode())
        written.append(path)
    return written


def _file_name(document: dict[str, Any], several: bool) -> str:
    name = f"{document['method']}-{document['base']}" if several else document["method"]
    return re.sub(r"[^\w.+-]+", "-", name).strip(".-")
