"""What became of the mutants: read from mutmut's notes, told as a table."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TARGET = 0.95

# mutmut keeps the exit codes of pytest (a failure, an error) and of the signal that ends endless loops.
_FAILED = {1, 3}
_ENDLESS = {24, 36, 152, 255, -24}
_LINE = "  {0:<14} {1:>8} {2:>8} {3:>8} {4:>9} {5:>7}".format


class Verdict(NamedTuple):
    """What became of the mutants of one machine."""

    machine: str
    mutants: int
    survivors: list[str]
    endless: list[str]

    @property
    def killed(self) -> int:
        """How many made a test fail, or run for ever."""
        return self.mutants - len(self.survivors)


def read(machines: Path) -> Iterator[Verdict]:
    """Read the notes beside the mutated machines; a mutant that no test asked about has survived."""
    for notes in sorted(machines.glob("*.meta")):
        codes = json.loads(notes.read_text("utf-8"))["exit_code_by_key"]
        if codes:
            survivors = [name for name, code in codes.items() if code not in _FAILED | _ENDLESS]
            endless = [name for name, code in codes.items() if code in _ENDLESS]
            yield Verdict(notes.name.removesuffix(".py.meta"), len(codes), survivors, endless)


def table(verdicts: list[Verdict]) -> Iterator[str]:
    """Yield a line for each machine, and one for all; the endless ones are among the killed."""
    everything = Verdict(
        "all",
        sum(one.mutants for one in verdicts),
        [name for one in verdicts for name in one.survivors],
        [name for one in verdicts for name in one.endless],
    )
    yield _LINE("machine", "mutants", "killed", "endless", "survivors", "share")
    for one in [*verdicts, everything]:
        share = f"{one.killed / one.mutants:.1%}"
        yield _LINE(one.machine, one.mutants, one.killed, len(one.endless), len(one.survivors), share)


def suffices(verdicts: list[Verdict]) -> bool:
    """Whether at least 95 % are killed."""
    return sum(one.killed for one in verdicts) >= TARGET * sum(one.mutants for one in verdicts)
