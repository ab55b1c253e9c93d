"""Breaks the machines and tells which changes no test notices: `python -m tests.mutants [MACHINE ...]`."""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutants import report
from tests.mutants.preparation import lay_open

ROOT = Path(__file__).parents[2]
MACHINES = Path("src/paintkit/machines")
NEEDED = ("pyproject.toml", "conftest.py", "src", "tests")


def main(arguments: list[str]) -> int:
    """Break, ask, and print; 1 if fewer than 95 % of the mutants are killed."""
    known = sorted(path.stem for path in (ROOT / MACHINES).glob("[!_]*.py"))
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("machine", nargs="*", help=f"only these: {', '.join(known)}")
    wanted = parser.parse_args(arguments).machine or known
    if unknown := set(wanted) - set(known):
        parser.error(f"no such machine: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="paintkit-mutants-") as place:
        folder = Path(place)
        copy(folder)
        mutmut(folder, "run", "--max-children", "1", *(f"paintkit.machines.{one}.*" for one in wanted))
        verdicts = [one for one in report.read(folder / "mutants" / MACHINES) if one.machine in wanted]
        print("", *report.table(verdicts), sep="\n")
        for name in (name for one in verdicts for name in one.survivors):
            print("", changed(folder, name), sep="\n", flush=True)
        for name in (name for one in verdicts for name in one.endless):
            print("", f"endless: {changed(folder, name)}", sep="\n", flush=True)
    return 0 if report.suffices(verdicts) else 1


def copy(folder: Path) -> None:
    """Copy what the tests of the machines need, and lay the machines open."""
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    for machine in (folder / MACHINES).glob("*.py"):
        machine.write_text(lay_open(machine.read_text("utf-8")), "utf-8")


def mutmut(folder: Path, *arguments: str) -> None:
    """Run mutmut in the copy; it has said what is wrong where it fails, mostly that a test does so by itself."""
    done = subprocess.run([sys.executable, "-m", "mutmut", *arguments], cwd=folder, check=False)
    if done.returncode:
        sys.exit("no mutant was judged: the tests of the machines have to pass first")


def changed(folder: Path, mutant: str) -> str:
    """Return the name of a mutant and the lines that it changes."""
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", "show", mutant],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if line[:1] in "-+" and line[:3] not in {"---", "+++"}]
    return "\n".join([mutant, *lines])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
