"""Make finds a Python that works, and says so when there is none."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None, reason="needs make")

BROKEN_SHIM = "exit 127"
TOO_OLD = '[ "$1" != -c ]'
NO_VENV = '[ "$1" != -m ]'
WORKING = """
case "$1" in
    -m) mkdir -p "$3/bin" && : >"$3/bin/python" ;;
    --version) echo "Python of ${0##*/}" ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout with an empty PATH folder."""
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path)
    for tool in ("mkdir", "rm"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return tmp_path


def make_environment(folder: Path, **pythons: str) -> subprocess.CompletedProcess[str]:
    """Let make build the environment where PATH holds these pythons only; python3_12 is python3.12."""
    for name, script in pythons.items():
        python = folder / "bin" / name.replace("_", ".")
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    return subprocess.run(
        [MAKE, ".venv/bin/python"],
        cwd=folder,
        env={"PATH": str(folder / "bin")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_newest_python_that_runs_is_taken(folder: Path):
    """A shim that fails and a Python that is too old are passed over, for the newest of the rest."""
    done = make_environment(
        folder, python3_13=BROKEN_SHIM, python3_12=WORKING, python3_11=WORKING, python3=TOO_OLD
    )

    assert (0, "using Python of python3.12\n") == (done.returncode, done.stdout), done.stderr
    assert (folder / ".venv/bin/python").exists()


def test_no_python_is_said_clearly(folder: Path):
    """Without a suitable Python, make names what it needs and fails."""
    done = make_environment(folder, python3_13=BROKEN_SHIM, python3=TOO_OLD)

    assert done.returncode != 0
    assert "needs Python 3.11 or newer on PATH" in done.stderr


def test_python_without_venv_is_said_clearly(folder: Path):
    """A Python that cannot make environments is named together with the fix, and nothing half-made stays."""
    done = make_environment(folder, python3=NO_VENV)

    assert done.returncode != 0
    assert "python3 cannot make virtual environments" in done.stderr
    assert "apt install python3-venv" in done.stderr
    assert not (folder / ".venv").exists()


def test_help_names_every_documented_target():
    """`make` alone lists the targets."""
    done = subprocess.run(
        [MAKE], cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True
    )

    targets = {"studio", "test", "test-sqlalchemy20", "check", "bench", "import", "lock", "docs", "clean"}
    assert targets <= set(done.stdout.split())
