"""`import sunbench`: light, and whole in a checkout without an editable install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import sunbench

ROOT = Path(__file__).parents[1]


def python(code: str, **more: str) -> str:
    env = {"PATH": "", "PYTHONDONTWRITEBYTECODE": "1", **more}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_imports_nothing_heavy():
    code = "import sys, sunbench; print(dir(sunbench))\n"
    code += "heavy = {'torch', 'diffusers', 'transformers', 'pandas', 'numpy', 'matplotlib'}\n"
    code += "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    assert "score" in python(code)


def test_reading_a_finished_run_imports_nothing_that_samples():
    code = "import sys, sunbench.bench.finished, sunbench.report.tables, sunbench.report.answer\n"
    code += "heavy = {'diffusers', 'transformers', 'peft', 'torchvision', 'scipy.stats'}\n"
    code += "print(heavy & set(sys.modules))"
    assert python(code).strip() == "set()"


#: Takes away what an editable installation would find.
PLAIN = """
import sys
sys.meta_path = [f for f in sys.meta_path if "editable" not in (repr(f) + f.__module__).lower()]
sys.path.insert(0, "")
"""


@pytest.mark.parametrize("name", ["reference_sets", "methods", "methods.ddim", "cli"])
def test_a_checkout_without_an_editable_install_is_whole(name: str):
    file = python(f"{PLAIN}import sunbench.{name} as m; print(m.__file__)").strip()
    top = name.partition(".")[0]
    assert Path(file).is_relative_to(ROOT / top if top != "cli" else ROOT / "sunbench")


def test_the_command_works_in_a_checkout_without_an_editable_install():
    code = PLAIN + "from sunbench.cli import app; app(['list', 'methods'], standalone_mode=False)"
    assert "dpm++" in python(code, COLUMNS="200")


def test_public_names_are_there():
    for name in sunbench.__all__:
        assert getattr(sunbench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        sunbench.rum  # noqa: B018
