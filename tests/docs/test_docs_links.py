"""Names, tables and links of the README and docs/ against the program and the files."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import typer

from sunbench import cli, registry
from sunbench.methods.sun.settings import SunTraining
from sunbench.metrics.registry import METRICS
from sunbench.models.card import RULES, from_mapping
from sunbench.regression.tolerances import load_tolerances
from sunbench.store.results import ResultRow
from sunbench.store.rows import ShardRow

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
REPORTS = sorted((ROOT / "reports").rglob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_toml_is_what_it_says(page: Path, tmp_path: Path):
    for language, text in FENCE.findall(page.read_text("utf-8")):
        if language != "toml":
            continue
        table = tomllib.loads(text)
        if "source" in table:
            assert from_mapping(table, page.name).name
        elif "loop" in table:
            assert SunTraining.from_table(table).loop.steps == table["loop"]["steps"]
        elif "project" not in table:
            (tmp_path / "given.toml").write_text(text)
            assert table.keys() <= load_tolerances(tmp_path / "given.toml").keys()


# ------------------------------------------------------------------------------ names


def headings(page: str) -> set[str]:
    """Headings of a page; one may name several methods, separated by commas."""
    lines = re.findall(r"^#+ (.+)$", (ROOT / "docs" / page).read_text("utf-8"), re.M)
    return {name for line in lines for name in line.split(", ")}


def ticked(page: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", (ROOT / "docs" / page).read_text("utf-8")))


def test_every_method_and_metric_has_a_section():
    assert registry.METHODS.keys() <= headings("methods.md")
    assert METRICS.keys() <= headings("protocols.md")


def test_every_field_and_column_is_explained():
    assert RULES.keys() <= ticked("models.md")
    fields = ResultRow.__dataclass_fields__.keys() | ShardRow.__dataclass_fields__.keys()
    assert fields <= ticked("store.md")


def test_every_command_is_named():
    said = "\n".join(page.read_text("utf-8") for page in PAGES)
    own = typer.main.get_command(cli.app).commands
    assert [name for name in own if f"sunbench {name}" not in said] == []


# ------------------------------------------------------------------------------ links


def slug(heading: str) -> str:
    """A heading's anchor on GitHub."""
    plain = re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower())
    return plain.replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text("utf-8"))
    return {slug(h) for h in re.findall(r"^#+ (.+)$", text, re.M)}


@pytest.mark.parametrize("page", [*PAGES, *REPORTS], ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    text = FENCE.sub("", page.read_text("utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


@pytest.mark.parametrize("page", [*PAGES, *REPORTS], ids=lambda p: str(p.relative_to(ROOT)))
def test_no_absolute_paths(page: Path):
    absolute = re.findall(
        r"(?<![\w.~/:-])/(?:home|root|work|tmp|mnt|data|opt|Users)\b\S*", page.read_text("utf-8")
    )
    assert absolute == []


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    others = [p.name for p in PAGES[1:] if p.name != "README.md"]
    assert [name for name in others if f"({name})" not in index] == []


def test_every_report_is_in_an_index():
    """The folder's own, or the one above."""
    for page in REPORTS:
        folder = page.parent if page.name != "README.md" else page.parent.parent
        indices = [p for p in (folder / "README.md", folder.parent / "README.md") if p.is_file()]
        links = {
            (index.parent / link.partition("#")[0]).resolve()
            for index in indices
            for link in re.findall(r"\]\(([^)\s]+)\)", index.read_text("utf-8"))
        }
        assert page in links or page == ROOT / "reports/README.md", page
