"""What is installed and shipped: versions, extras, what an import brings along, the source archive."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import alignonce
from alignonce.__main__ import EXTRA_OF

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
CONSTRAINTS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
]
PINS = {canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in CONSTRAINTS}
REQUIREMENTS = [
    requirement
    for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for requirement in map(Requirement, lines)
    if requirement.name != "alignonce"
]


def lower_bound(requirement):
    (bound,) = [spec for spec in requirement.specifier if spec.operator == ">="]
    return Version(bound.version)


# --- versions


def test_lowest_torch_that_is_claimed_is_the_one_that_is_tested():
    (torch,) = [requirement for requirement in REQUIREMENTS if requirement.name == "torch"]
    assert lower_bound(torch) == PINS["torch"]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_what_is_tested_is_what_is_allowed(requirement):
    pin = PINS[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin, prereleases=True)
    if requirement.specifier:
        assert lower_bound(requirement) <= pin


def test_version_is_one_everywhere():
    assert f"version: {alignonce.__version__}\n" in (ROOT / "CITATION.cff").read_text()


# --- imports


def names_loaded_by(code):
    script = f"{code}\nimport sys\nprint(*sys.modules, sep='\\n')"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_import_brings_torch_and_numpy_and_little_else():
    beyond = names_loaded_by("import alignonce") - names_loaded_by("import torch")
    assert {name for name in beyond if name.partition(".")[0] != "alignonce"} <= {"numpy", "torch"}
    needed_later = ("diagnostics", "robustness", "experiments", "report", "cli")
    assert not {name for name in beyond if name.split(".")[1:2] and name.split(".")[1] in needed_later}


def test_diagnostics_are_there_when_asked_for():
    script = (
        "import alignonce\n"
        "assert 'alignment' in dir(alignonce)\n"
        "assert alignonce.diagnostics.alignment is alignonce.alignment\n"
        "from alignonce import *\n"
        "assert alignment is alignonce.alignment\n"
        "assert not hasattr(alignonce, 'no_such_name')\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.stderr == ""


# --- extras


def run_without(modules, *args):
    """Run the command line where some packages are not installed."""
    script = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in {sorted(modules)}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from alignonce.__main__ import main
sys.exit(main({list(args)}))
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("args", [[], ["--help"], ["--version"], ["train", "--rule", "fa"]])
def test_command_line_without_extras_says_what_to_install(args):
    run = run_without(EXTRA_OF, *args)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr == (
        "alignonce: the command line needs more packages: pip install 'alignonce[experiments]' "
        "(pydantic is missing)\n"
    )


@pytest.mark.parametrize(
    ("missing", "extra", "args"),
    [
        ("yaml", "study", ["study", "run", "quick", "--dry-run"]),
        ("pyarrow", "study", ["report", "no-such-study"]),
        ("jinja2", "study", ["reproduce", "--dry-run"]),
        ("safetensors", "experiments", ["train", "--data", "digits"]),
    ],
)
def test_command_that_needs_an_extra_says_which_before_it_works(missing, extra, args, tmp_path):
    run = run_without([missing], *args, *([] if "report" in args else ["--out", str(tmp_path / "out")]))
    assert run.returncode == 2
    assert f"pip install 'alignonce[{extra}]' ({missing} is missing)" in run.stderr
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_missing_module_of_no_extra_is_a_fault_with_its_traceback():
    run = run_without(["alignonce.cli"])
    assert "ModuleNotFoundError: No module named 'alignonce.cli'" in run.stderr


def test_table_of_extras_is_that_of_the_project():
    packages = importlib.metadata.packages_distributions()
    table = sorted((canonicalize_name(packages[module][0]), extra) for module, extra in EXTRA_OF.items())
    assert table == sorted(
        (canonicalize_name(Requirement(line).name), extra)
        for extra, lines in PROJECT["optional-dependencies"].items()
        if extra != "test"
        for line in lines
    )


def test_installed_command_is_that_of_the_module():
    assert PROJECT["scripts"] == {"alignonce": "alignonce.__main__:main"}


# --- the source archive


def test_source_archive_holds_all_that_its_tests_need(tmp_path):
    folders = ("src", "tests", "docs", "benchmarks", "examples", ".ci")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache", ".hypothesis")
    for folder in folders:
        shutil.copytree(ROOT / folder, tmp_path / "tree" / folder, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file() and path.name not in (".git", ".gitignore", "PKG-INFO", "setup.cfg"):
            shutil.copy(path, tmp_path / "tree")
    build = "from setuptools import build_meta; build_meta.build_sdist('..')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path / "tree", check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        shipped = {name.partition("/")[2] for name in tar.getnames()}
    (tree,) = [tmp_path / "tree"]
    there = {
        str(path.relative_to(tree))
        for path in tree.rglob("*")
        if path.is_file() and "egg-info" not in str(path)
    }
    assert there <= shipped
    assert re.fullmatch(rf"alignonce-{re.escape(alignonce.__version__)}\.tar\.gz", archive.name)
