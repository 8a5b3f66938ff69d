"""What this machine has, in a table."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from sunbench import __version__
from sunbench.bench.environment import environment
from sunbench.models import cards
from sunbench.paths import cache_root
from sunbench.store.files import counted, human


def _inception() -> str:
    from sunbench.metrics.networks.inception import weights_file

    return "available" if weights_file().is_file() else "not downloaded yet; fetched on first use"


def _model(name: str) -> str:
    from huggingface_hub import try_to_load_from_cache

    card = cards()[name]
    if card.source == "zoo":
        return "built in"
    repo = card.id.partition(":")[0]
    held = try_to_load_from_cache(repo, "model_index.json", revision=card.revision)
    return f"{repo}: " + ("in the hub's cache" if isinstance(held, str) else "not in the cache")


def examine() -> list[list[str]]:
    """Rows (item, value)."""
    env = environment()
    root, cores = cache_root(), counted(env.cores or 0, "core")
    free = shutil.disk_usage(next(p for p in (root, *root.parents) if p.exists())).free
    rows = [
        ["sunbench", f"{__version__}, Python {env.python} on {env.system}"],
        ["processor", f"{env.processor}, {cores}, {counted(env.threads, 'thread')}"],
        ["memory", human(env.memory_bytes)],
        ["GPU", ", ".join(env.gpus) or "none"],
        ["cache", f"{_home(root)}, {human(free)} free"],
        *([f"package {k}", v] for k, v in env.packages.items()),
    ]
    rows.append(["package open_clip", "available" if find_spec("open_clip") else "absent"])
    rows.append(["network inception", _inception()])
    rows += [[f"model {n}", _model(n)] for n in cards()]
    return rows


def _home(path: Path) -> str:
    return str(path).replace(str(Path.home()), "~")
