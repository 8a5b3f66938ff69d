"""What is installed is what stands in the checkout; what is committed holds nothing of one machine."""

import os
import re
import subprocess
import tomllib
import zlib
from importlib import metadata, resources
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import sunbench

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
PACKAGES = SETUPTOOLS["packages"]

WHEEL_LIMIT = 100_000_000  # bytes

#: Folders of people's machines, and addresses of package indexes.
MACHINE = re.compile(r"(?<![\w.~-])/(?:root|home|work|Users|mnt)/\w|[A-Z]:\\Users", re.ASCII)
INDEX = re.compile(
    r"https?://\S*(?:pypi|pythonhosted|npmjs|download\.pytorch|artifactory|nexus)\S*"
    r"|-{2}(?:extra-)?index[-]url|-{2}find[-]links|-{2}trusted[-]host"
)


def folder(package: str) -> Path:
    """Where a package's files stand in the checkout."""
    return ROOT / SETUPTOOLS["package-dir"].get(package, package.replace(".", "/"))


def requirements(lines: list[str]) -> list[Requirement]:
    return [Requirement(line) for line in lines]


def constraints() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = requirements([x for x in lines if x and not x.startswith("#")])
    names = [canonicalize_name(r.name) for r in pins]
    assert len(set(names)) == len(names), "a name stands twice"
    return dict(zip(names, pins, strict=True))


def committed() -> list[Path]:
    """Files that are or would be committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [p for p in (ROOT / name for name in listed.split("\0") if name) if p.is_file()]


def texts() -> list[tuple[Path, str]]:
    out = []
    for path in committed():
        content = path.read_bytes()
        if b"\0" not in content:
            out.append((path, content.decode("utf-8")))
    return out


# ------------------------------------------------------------------------------ packages


def test_every_package_is_listed():
    existing = {
        ".".join(p.parent.relative_to(ROOT).parts) for p in ROOT.glob("sunbench/**/__init__.py")
    }
    existing |= {
        ".".join(("sunbench", *p.parent.relative_to(ROOT).parts))
        for top in ("methods", "reference_sets")
        for p in ROOT.glob(f"{top}/**/__init__.py")
    }
    assert set(PACKAGES) == existing


def test_every_module_stands_in_a_package():
    inside = {p for name in PACKAGES for p in folder(name).glob("*.py")}
    tops = ("sunbench", "methods", "reference_sets")
    assert {p for top in tops for p in (ROOT / top).rglob("*.py")} == inside


def matched(package: str) -> set[Path]:
    patterns = SETUPTOOLS["package-data"]
    mine = [*patterns["*"], *patterns.get(package, [])]
    return {p for pattern in mine for p in folder(package).glob(pattern) if p.is_file()}


def data_files(top: Path) -> set[Path]:
    walked = os.walk(top, followlinks=True)
    files = {Path(where, f) for where, _, names in walked for f in names}
    return {p for p in files if p.suffix not in (".py", ".pyc", ".pyo") and p.name[0] != "."}


def test_every_data_file_is_shipped():
    shipped = {p for name in PACKAGES for p in matched(name)}
    files = {p for top in ("sunbench", "methods", "reference_sets") for p in data_files(ROOT / top)}
    assert files - shipped == set()
    assert ROOT / "sunbench/py.typed" in shipped
    assert {p.parent.name for p in shipped} >= {"cards", "data", "reference_sets", "unet", "world"}


def test_the_wheel_stays_below_its_limit():
    """What is shipped, compressed as a wheel is."""
    files = {p for name in PACKAGES for p in {*matched(name), *folder(name).glob("*.py")}}
    assert sum(len(zlib.compress(p.read_bytes())) for p in files) < WHEEL_LIMIT


@pytest.mark.parametrize("package", PACKAGES)
def test_installed_package_holds_its_data(package):
    """On a wheel this fails for a file that the patterns missed, on a checkout for a lost mapping."""
    there, here = Path(str(resources.files(package))), folder(package)
    wanted = [p.relative_to(here) for p in sorted(matched(package))]
    assert [p for p in wanted if not (there / p).is_file()] == []


# ------------------------------------------------------------------------------ metadata


def installed() -> metadata.Distribution:
    """What pip installed; a checkout's own .egg-info may come before it on the path."""
    (dist,) = (d for d in metadata.distributions(name="sunbench") if d.read_text("METADATA"))
    return dist


def test_version_is_the_same_everywhere():
    version = PROJECT["project"]["version"]
    assert sunbench.__version__ == version == installed().version
    assert re.search(
        rf"^## \[{re.escape(version)}\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M
    )


def test_the_citation_names_this_version_and_license():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    for key in ("version", "license"):
        assert f"{key}: {PROJECT['project'][key]}\n" in citation


def test_license_and_notice_are_shipped():
    info = installed().metadata
    assert info["License-Expression"] == "Apache-2.0"
    assert sorted(info.get_all("License-File", [])) == ["LICENSE", "NOTICE"]
    shipped = {p.name: p for p in installed().files or [] if "licenses" in p.parts}
    for name in ("LICENSE", "NOTICE"):
        assert shipped[name].read_text("utf-8") == (ROOT / name).read_text("utf-8")


def test_notice_names_every_art_package():
    notice = (ROOT / "NOTICE").read_text("utf-8")
    recipe = tomllib.loads((ROOT / "sunbench/zoo/world/recipe.toml").read_text("utf-8"))
    for package in recipe["packages"]:
        at = notice.find(f"{package['name']} {package['version']}")
        assert at >= 0, package["name"]
        assert package["license"] in notice[at : at + 160]


def test_command_line_is_installed():
    (entry,) = installed().entry_points.select(group="console_scripts", name="sunbench")
    assert entry.value == PROJECT["project"]["scripts"]["sunbench"]


# ------------------------------------------------------------------------------ versions


def test_constraints_are_plain_pins():
    for pin in constraints().values():
        assert pin.url is None
        assert not pin.extras
        assert [s.operator for s in pin.specifier] == ["=="]
        assert "+" not in str(pin.specifier), f"{pin}: a build of one index"


def test_constraints_hold_every_dependency_within_its_range():
    extras = PROJECT["project"]["optional-dependencies"]
    needed = requirements([*PROJECT["project"]["dependencies"], *extras["test"], *extras["clip"]])
    pins = constraints()
    for need in needed:
        (pin,) = pins[canonicalize_name(need.name)].specifier
        assert need.specifier.contains(pin.version), f"{pin} is outside of {need}"


def test_lower_bounds_are_versions_that_are_tested():
    """Of extras too, but for ray and torchao, which constraints.txt leaves out."""
    extras = PROJECT["project"]["optional-dependencies"]
    needed = [*PROJECT["project"]["dependencies"], *extras["clip"], *extras["zoo"], *extras["test"]]
    pins = constraints()
    for need in requirements(needed):
        (bound,) = need.specifier
        (pin,) = pins[canonicalize_name(need.name)].specifier
        lowest, tested = Version(bound.version).release, Version(pin.version).release
        assert bound.operator == ">="
        assert tested[: len(lowest)] == lowest, f"{need}: {pin} is what is tested"


def test_every_dependency_is_imported():
    """A declared package that nothing imports is to be dropped."""
    text = "\n".join(p.read_text("utf-8") for name in PACKAGES for p in folder(name).glob("*.py"))
    names = {canonicalize_name(r.name) for r in requirements(PROJECT["project"]["dependencies"])}
    modules = {"pillow": "PIL", "huggingface-hub": "huggingface_hub"}
    unused = [n for n in names if not re.search(rf"(import|from) {modules.get(n, n)}\b", text)]
    assert unused == []


def test_constraints_agree_among_themselves():
    """Each pinned version that is installed here asks for versions that the others satisfy."""
    pins, compared = constraints(), 0
    for name, pin in pins.items():
        (exact,) = pin.specifier
        try:
            here = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if here.version != exact.version:
            continue
        for need in requirements(here.requires or []):
            other = pins.get(canonicalize_name(need.name))
            if other is None or (need.marker and not need.marker.evaluate({"extra": ""})):
                continue
            (held,) = other.specifier
            assert need.specifier.contains(held.version, prereleases=True), f"{name} needs {need}"
            compared += 1
    if compared == 0:
        pytest.skip("none of the pinned versions is installed here")


# ------------------------------------------------------------------------------ files


def test_no_file_names_a_machine():
    hits = [f"{p.relative_to(ROOT)}: {m[0]}" for p, t in texts() if (m := MACHINE.search(t))]
    assert hits == []


def test_no_file_names_a_package_index():
    hits = [f"{p.relative_to(ROOT)}: {m[0]}" for p, t in texts() if (m := INDEX.search(t))]
    assert hits == []


@pytest.mark.parametrize(
    "text", ["x = '/home/" + "someone/x'", "C:" + "\\Users\\x", " /root" + "/a"]
)
def test_machine_paths_are_found(text):
    assert MACHINE.search(text)


@pytest.mark.parametrize("text", ["https://py" + "pi.org/simple", "pip --index" + "-url x"])
def test_index_addresses_are_found(text):
    assert INDEX.search(text)


def test_readme_and_ci_run_the_same_command():
    command = re.search(r"tox -e \S+", (ROOT / ".ci/run").read_text("utf-8"))
    assert command is not None
    assert command[0] in (ROOT / "README.md").read_text("utf-8")
    tox = (ROOT / "tox.ini").read_text("utf-8")
    names = command[0].removeprefix("tox -e ").split(",")
    assert all(f"[testenv:{name}]" in tox for name in names)
    assert names[-1] == "tests"
    assert os.access(ROOT / ".ci/run", os.X_OK)
