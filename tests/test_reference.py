"""The reference pages say what the code says."""

import inspect
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paintkit import (
    CacheManager,
    EventBus,
    RequestBatcher,
    RetryBudget,
    _catalogue,
    bulkhead,
    circuit_breaker,
    deadline,
    fallback,
    hedge,
    rate_limit,
    retry,
    timeout,
)
from paintkit.monitor.exposition import prometheus_name
from paintkit.monitor.logging import log_observations
from paintkit.redis import RedisLevel, RedisStreams
from paintkit.sqlalchemy import (
    DatabaseConnectionManager,
    FromCache,
    IdempotencyKeys,
    Outbox,
    PoolConfig,
    QueryWatch,
    query_guard,
)
from paintkit.telemetry import Metric
from paintkit.testing import chaos

DOCS = Path(__file__).parents[1] / "docs"

#: The tables of options, in the order in which they stand: page, and what has these options.
TABLES: list[tuple[str, list[Callable[..., Any]]]] = [
    ("retry.md", [retry]),
    ("circuit-breaker.md", [circuit_breaker]),
    ("timeout.md", [timeout]),
    ("deadline.md", [deadline]),
    ("bulkhead.md", [bulkhead]),
    ("rate-limit.md", [rate_limit]),
    ("fallback.md", [fallback]),
    ("hedge.md", [hedge]),
    ("retry-budget.md", [RetryBudget]),
    ("cache.md", [CacheManager, CacheManager.cache_result, RedisLevel]),
    ("batching.md", [RequestBatcher]),
    ("monitoring.md", [log_observations]),
    ("redis-streams.md", [RedisStreams]),
    ("chaos.md", [chaos]),
    ("events.md", [EventBus, EventBus.subscribe, Outbox]),
    (
        "database.md",
        [
            PoolConfig,
            DatabaseConnectionManager.unit_of_work,
            IdempotencyKeys,
            FromCache,
            query_guard,
            QueryWatch,
        ],
    ),
]


def tables(page: str) -> list[dict[str, str]]:
    """Return the tables of options of a page: what each says of the default, by option."""
    parts = page.split("| option | default | meaning |\n|---|---|---|\n")[1:]
    rows = [part.partition("\n\n")[0] for part in parts]
    return [dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", one, re.MULTILINE)) for one in rows]


def contradictions(said: dict[str, str], told: Callable[..., Any]) -> list[str]:
    """Return where a table and a signature differ; a default in words is believed."""
    options = {
        name: parameter
        for name, parameter in inspect.signature(told).parameters.items()
        if name != "self" and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY  # what is decorated
    }
    wrong = [f"{name} is missing" for name in options.keys() - said.keys()]
    wrong += [f"{name} does not exist" for name in said.keys() - options.keys()]
    for name in options.keys() & said.keys():
        literal = re.fullmatch(r"`([^`(]+)`", said[name])
        if literal and eval(literal[1]) != options[name].default:
            wrong.append(f"{name} is {options[name].default!r}, not {literal[1]}")
    return wrong


@pytest.mark.parametrize(("page", "told"), TABLES, ids=[page for page, _ in TABLES])
def test_the_tables_of_defaults_are_true(page: str, told: list[Callable[..., Any]]) -> None:
    """Each table has the options of the signature, all of them, with its defaults."""
    found = tables((DOCS / page).read_text(encoding="utf-8"))

    assert len(told) == len(found)
    assert [] == [
        f"{page}: {told.__qualname__}: {wrong}"
        for said, told in zip(found, told, strict=True)
        for wrong in contradictions(said, told)
    ]


def metric_rows(page: str) -> dict[str, list[str]]:
    """Return the table of metrics: what it says of each, by name."""
    rows = page.partition("| metric | in Prometheus | kind | labels | meaning |\n|---|---|---|---|---|\n")[2]
    cells = [re.findall(r" (.+?) \|", row) for row in rows.partition("\n\n")[0].splitlines()]
    return {name: rest for name, *rest in cells}


def catalogued() -> dict[str, list[str]]:
    """Return the same as the catalogue has it."""
    return {
        f"`{entry.name}`": [
            f"`{prometheus_name(Metric(entry.name, entry.kind, entry.unit, entry.help, ()))}`",
            entry.kind,
            ", ".join(f"`{label}`" for label in (table.label, *entry.labels)),
            entry.help,
        ]
        for table in _catalogue.TABLES
        for entry in table.entries
    }


def test_the_table_of_metrics_is_the_catalogue() -> None:
    """Every number that a primitive tells, with its spelling, its labels and its meaning."""
    assert catalogued() == metric_rows((DOCS / "monitoring.md").read_text(encoding="utf-8"))


def test_a_metric_that_is_missing_is_found() -> None:
    """The comparison sees a row that was taken out."""
    page = (DOCS / "monitoring.md").read_text(encoding="utf-8")
    assert catalogued() != metric_rows(re.sub(r"\| `paintkit\.cache\.hits.*\n", "", page))


def test_a_false_table_is_found() -> None:
    """The check sees a wrong default, an option that is missing and one that does not exist."""

    def policy(*, attempts: int = 3, name: str | None = None) -> None: ...

    page = (
        "| option | default | meaning |\n|---|---|---|\n| `attempts` | `4` | … |\n| `retries` | `1` | … |\n"
    )

    assert [
        "name is missing",
        "retries does not exist",
        "attempts is 3, not 4",
    ] == contradictions(tables(page)[0], policy)


def test_the_table_of_the_layers_is_the_contract() -> None:
    """The architecture page shows the layers that import-linter enforces, in their order."""
    root = DOCS.parent
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(one for one in settings["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")

    told = page.partition("\n## The layers\n")[2].partition("\n\nTwo more contracts")[0]
    rows = [row.split(" | ")[0] for row in told.splitlines() if row.startswith("| `")]

    assert [re.findall(r"\w+", layer) for layer in contract["layers"]] == [
        re.findall(r"`(\w+)`", row) for row in rows
    ]


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_no_page_needs_a_script_to_be_read(page: Path) -> None:
    """The site draws no diagrams: a block of Mermaid would be shown as its code."""
    assert "```mermaid" not in page.read_text(encoding="utf-8")
