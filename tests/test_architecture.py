"""The shape of the house: arrows point down, the door is light, and the exported names are pinned."""

import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import paintkit

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "paintkit"
HEAVY = {
    "asyncio",
    "concurrent.futures",
    "dataclasses",
    "flask",
    "hypothesis",
    "inspect",
    "logging",
    "msgspec",
    "opentelemetry",
    "prometheus_client",
    "pytest",
    "redis",
    "sqlalchemy",
    "typing_extensions",
}
# All imports together take half a minute of a processor, too much for the time that one test has on a busy machine.
PARTS = 12
# Forks for each module, so that each is imported into a process that knows only the front door.
IMPORT_EACH_FIRST = """
import importlib, os, sys, types
import paintkit

for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        code = 1
        try:
            importlib.import_module(name)
            taken = vars(paintkit)
            found = {export for export in paintkit.__all__ if isinstance(taken.get(export), types.ModuleType)}
            if found <= {"backoff"}:
                code = 0
            else:
                print(f"after import {name}, these exports are modules: {sorted(found)}", flush=True)
        except BaseException as error:
            print(f"import {name} first: {type(error).__name__}: {error}", flush=True)
        os._exit(code)
    os.waitpid(child, 0)
"""


def modules(folder: Path = PACKAGE, prefix: str = "paintkit.") -> list[str]:
    """Return the names of all submodules, found without importing any."""
    found = []
    for module in pkgutil.iter_modules([str(folder)], prefix):
        found.append(module.name)
        if module.ispkg:
            found += modules(folder / module.name.rpartition(".")[2], module.name + ".")
    return found


def public_modules() -> list[str]:
    """Return the modules without an underscore anywhere in their names."""
    return ["paintkit", *(name for name in modules() if "._" not in name)]


def in_order(names: Iterable[str]) -> list[str]:
    """Sort as the linter does: constants, classes, then the rest."""

    def rank(name: str) -> tuple[int, str]:
        constant = len(name) > 1 and name.isupper()
        return 0 if constant else 1 if name[0].isupper() else 2, name

    return sorted(names, key=rank)


def run(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python on the side and return what it said."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def lint_imports(source: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of pyproject.toml against the package found in `source`."""
    return run(
        "-c",
        "from importlinter.cli import lint_imports_command as main; main()",
        "--config",
        str(ROOT / "pyproject.toml"),
        "--no-cache",
        "--no-logo",
        PYTHONPATH=str(source),
    )


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter holds after a statement."""
    done = run("-c", f"import sys\n{statement}\nprint(*sys.modules, sep='\\n')")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_imports_point_down():
    """Every contract of pyproject.toml holds."""
    done = lint_imports(ROOT / "src")

    assert done.returncode == 0, done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package, to be spoiled."""
    shutil.copytree(PACKAGE, tmp_path / "paintkit", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "paintkit"


def test_a_turned_arrow_is_noticed(copy: Path):
    """Each contract breaks on an import that it forbids."""
    planted = {
        "backoff.py": "import paintkit.clock",
        "observations.py": "from paintkit import retry",
        "machines/attic.py": "import time",
        "policies/_retry.py": "import paintkit.policies._attic",
        "clock.py": "import redis",
    }
    (copy / "policies/_attic.py").touch()
    for module, line in planted.items():
        with (copy / module).open("a") as file:
            file.write(f"\n{line}\n")

    done = lint_imports(copy.parent)

    assert done.returncode == 1, done.stderr
    for arrow in (
        "paintkit.backoff -> paintkit.clock",
        "paintkit.observations -> paintkit (",
        "paintkit.machines.attic -> time",
        "paintkit.policies._retry -> paintkit.policies._attic",
        "paintkit.clock -> redis",
    ):
        assert arrow in done.stdout


def test_a_module_outside_the_layers_is_noticed(copy: Path):
    """Every module has its place in the layers."""
    (copy / "attic.py").touch()

    done = lint_imports(copy.parent)

    assert done.returncode == 1, done.stderr
    assert "- paintkit.attic" in done.stdout


def test_the_front_door_is_light():
    """`import paintkit` loads no optional dependency and nothing that is slow to import."""
    assert set() == loaded_by("import paintkit") & HEAVY


def test_a_heavy_door_is_noticed():
    """The probe of the law above sees a module that was loaded."""
    assert {"dataclasses", "inspect"} == loaded_by("import paintkit, dataclasses") & HEAVY


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("part", range(PARTS))
def test_every_module_can_be_imported_first(part: int):
    """Any submodule may be the first import of a program, and none takes the place of an export."""
    done = run("-c", IMPORT_EACH_FIRST, *modules()[part::PARTS])

    assert (0, "") == (done.returncode, done.stdout + done.stderr)


@pytest.mark.parametrize("name", public_modules())
def test_public_names_are_listed_in_order(name: str):
    """A public module that defines something has a sorted `__all__`, and every name in it exists."""
    module = importlib.import_module(name)
    defines = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == name]
    listed = list(getattr(module, "__all__", []))

    assert bool(listed) or not [key for key in defines if not key.startswith("_")]
    assert in_order(set(listed)) == listed
    assert [] == [key for key in listed if not hasattr(module, key)]


def test_the_exported_names_are_pinned():
    """What `paintkit` exports changes only together with tests/public_api.txt."""
    pinned = (ROOT / "tests" / "public_api.txt").read_text().split()

    assert pinned == paintkit.__all__


@pytest.mark.parametrize("lock", ["dev.txt", "studio.txt"])
def test_no_rival_is_depended_on(lock: str):
    """What the benchmarks measure beside us is installed by the benchmarks alone, and the lock has hashes throughout."""
    rivals = re.findall(r"(?m)^([\w-]+)==", (ROOT / "tests/benchmarks/requirements.txt").read_text())
    lines = (ROOT / "requirements" / lock).read_text().splitlines()
    locked = {line.partition("==")[0] for line in lines if re.match(r"[\w-]+==", line)}

    assert "tenacity" in rivals
    assert set() == locked & set(rivals)
    assert [] == [line for line in lines if not re.match(r"#|[\w-]+==[^@]+ \\$|    (#|--hash=sha256:)", line)]
