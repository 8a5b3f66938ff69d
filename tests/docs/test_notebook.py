"""The notebook's code runs as it stands, on the tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NOTEBOOK = json.loads((ROOT / "docs/notebook.ipynb").read_text("utf-8"))


def test_its_cells_run(workplace: Path, capsys: Any):
    names: dict[str, Any] = {"__name__": "notebook"}
    cells = ["".join(c["source"]) for c in NOTEBOOK["cells"] if c["cell_type"] == "code"]
    for code in cells:
        exec(compile(code, "notebook", "exec"), names)
    assert len(cells) > 5
    assert set(names["table"]["steps"]) > {4, 8}  # and the reference's
    assert "dpm++ at 8 steps" in names["images"]
    assert (workplace / "runs/notebook/report.html").is_file()
    assert capsys.readouterr().out.count("emoji-3d:") >= 1


def test_it_holds_no_outputs():
    assert NOTEBOOK["nbformat"] == 4
    assert not any(c.get("outputs") for c in NOTEBOOK["cells"])
