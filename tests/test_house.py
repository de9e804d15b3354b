"""How the house is built: imports point one way, every file says what it is."""

import ast
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "ccnet_lab").rglob("*.py"))
DOORS = [ROOT / "app.py", *sorted((ROOT / "scripts").glob("*.py"))]
TRACKED = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
).stdout.split("\n")


def imported(path):
    """Modules a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            if (
                node.module != "ccnet_lab"
            ):  # `from ccnet_lab import store` is an import of the store
                yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_point_one_way():
    """The contracts in pyproject.toml; nothing evades them by importing the package."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout
    for path in LIBRARY:
        if path != ROOT / "ccnet_lab" / "__init__.py":
            assert "ccnet_lab" not in imported(path), path


def test_what_draws_keeps_no_state():
    for path in (ROOT / "ccnet_lab" / "draw").glob("*.py"):
        assert not [m for m in imported(path) if m.endswith("pyplot")]


def test_tests_mirror_the_tree():
    """A test of one module is called as it is, and lies in the folder of its room."""
    rooms = {path.parent.name for path in LIBRARY} - {"ccnet_lab"}
    for folder in (
        path for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("test_*.py"))
    ):
        assert folder.name in rooms | {"scripts"}, folder
    assert not [path.name for path in (ROOT / "tests").glob("test_*.py") if path.stem[5:] in rooms]


@pytest.mark.parametrize("path", DOORS, ids=lambda p: p.name)
def test_no_door_imports_another(path):
    assert not [
        m for m in imported(path) if m.split(".")[0] in ("app", "scripts", "notebooks", "tests")
    ]


@pytest.mark.parametrize(
    "path",
    [*LIBRARY, *DOORS, *sorted((ROOT / "tests").rglob("*.py"))],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_a_file_opens_with_one_sentence(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = docstring.split("\n")[0]
    assert len(first) > 20
    assert first.endswith(".")


def test_environment_is_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert f"python{project['requires-python']}" in conda
    assert set(conda) == {f"python{project['requires-python']}", "pip"}
    assert pip == ["-c constraints.txt", f"-e .[{','.join(project['optional-dependencies'])}]"]


def test_constraints_pin_every_dependency_within_its_range():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        Requirement(r)
        for r in [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    ]
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    pins = dict(line.split("==") for line in lines)
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    for requirement in wanted:
        assert requirement.specifier.contains(pins[requirement.name.lower().replace("_", "-")]), (
            requirement
        )


def test_each_pin_has_the_hashes_of_its_files():
    text = (ROOT / "hashes.txt").read_text()
    found = re.findall(
        r"^(\S+==\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.M
    )
    assert "".join(f"{pin} \\\n{hashes}" for pin, hashes in found) == text.partition("\n")[2]
    lines = (ROOT / "constraints.txt").read_text().splitlines()[1:]
    assert sorted(pin.replace("_", "-").lower() for pin, _ in found) == sorted(
        line.replace("_", "-").lower() for line in lines
    )


def test_nothing_names_a_machine_or_an_index():
    forbidden = re.compile(
        r"(?<![\w.])/(work|root|home)/|index-url|extra-index|pypi\.org|files\.pythonhosted", re.I
    )
    for name in filter(None, TRACKED):
        path = ROOT / name
        if (
            path.suffix in (".py", ".md", ".txt", ".toml", ".yml", ".ipynb", ".css", "")
            and path.is_file()
            and path != Path(__file__)
        ):
            found = forbidden.search(path.read_text(encoding="utf-8", errors="ignore"))
            assert not found, f"{name}: {found.group()}"


def test_the_library_imports_without_the_doors_packages():
    code = "import sys; sys.modules.update(dict.fromkeys(['gradio', 'ipywidgets', 'IPython'])); "
    code += "from ccnet_lab import *; import ccnet_lab.training"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_nothing_is_loaded_before_it_is_used():
    import ccnet_lab

    code = "import sys, ccnet_lab.configs; assert 'torch' not in sys.modules; "
    code += "import ccnet_lab.training; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert sorted(chain(*ccnet_lab._HOMES.values())) == sorted(ccnet_lab.__all__)
    assert all(getattr(ccnet_lab, name) is not None for name in ccnet_lab.__all__)
    assert set(ccnet_lab.__all__) <= set(dir(ccnet_lab))
    with pytest.raises(AttributeError, match="no attribute 'Explorrer'"):
        _ = ccnet_lab.Explorrer
