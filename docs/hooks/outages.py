"""Simulates an outage under some policies while the documentation is built: its pictures and numbers are never old."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from paintkit import RetryBudget, backoff, circuit_breaker, pipeline, retry
from paintkit._wrap import Policy
from paintkit.testing import Outage, Simulation, simulate

OUTAGE = Outage(((10.0, 40.0),))
PLACE = "<!-- outages -->"


def _retry(**options: object) -> Policy:
    return retry(on=ConnectionError, attempts=4, backoff=backoff.exponential(0.1, rng=Random(7)), **options)


POLICIES: dict[str, Callable[[], Policy]] = {
    "retry": _retry,
    "retry with a budget": lambda: _retry(budget=RetryBudget(ratio=0.2)),
    "circuit breaker": lambda: circuit_breaker(failure_threshold=5, recovery_timeout=10.0),
    "retry around a circuit breaker": lambda: pipeline(
        _retry(), circuit_breaker(failure_threshold=5, recovery_timeout=10.0)
    ),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a picture of each simulation."""
    for name, result in _results():
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder) / "outage.svg"
            result.plot(picture, title=name)
            files.append(File.generated(config, _path(name), content=picture.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write the numbers, and the pictures below them, where the page wants them."""
    return markdown.replace(PLACE, "\n".join(_lines())) if PLACE in markdown else markdown


def _lines() -> Iterator[str]:
    yield "| policy | answered | failed | rejected | calls per request | at the peak | p99 | recovery |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, result in _results():
        yield (
            f"| {name} | {result.succeeded} | {result.failed} | {result.rejected} | {result.amplification:.2f} |"
            f" {result.peak_amplification:.2f} | {result.p99:.2f} s | {result.recovery_time:.1f} s |"
        )
    for name, _ in _results():
        yield f"\n![{name}: requests, calls and failures by second]({_path(name)})"


def _results() -> Iterator[tuple[str, Simulation]]:
    return ((name, simulate(make, OUTAGE)) for name, make in POLICIES.items())


def _path(name: str) -> str:
    return f"images/{name.replace(' ', '-')}.svg"
