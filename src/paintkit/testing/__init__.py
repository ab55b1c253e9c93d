"""What it takes to test resilient code: a virtual clock, scripted callables, outages, and Hypothesis strategies.

Everything is loaded when it is first used. `strategies` and the contracts need the extra `paintkit[testing]`, the rest needs nothing; the
pytest plugin `paintkit.testing.plugin` registers itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paintkit.testing import strategies as strategies
    from paintkit.testing._chaos import Blow as Blow
    from paintkit.testing._chaos import Chaos as Chaos
    from paintkit.testing._chaos import chaos as chaos
    from paintkit.testing._outage import Outage as Outage
    from paintkit.testing._scripted import Scripted as Scripted
    from paintkit.testing._scripted import ScriptedAsync as ScriptedAsync
    from paintkit.testing._scripted import ascripted as ascripted
    from paintkit.testing._scripted import scripted as scripted
    from paintkit.testing.caches import MutatedValueError as MutatedValueError
    from paintkit.testing.caches import assert_loads as assert_loads
    from paintkit.testing.caches import mutation_guard as mutation_guard
    from paintkit.testing.clock import FakeClock as FakeClock
    from paintkit.testing.contracts import CacheLevelContract as CacheLevelContract
    from paintkit.testing.contracts import CacheLevelOutageContract as CacheLevelOutageContract
    from paintkit.testing.levels import FakeLevel as FakeLevel
    from paintkit.testing.levels import FakeServer as FakeServer
    from paintkit.testing.simulation import SimulatedOutageError as SimulatedOutageError
    from paintkit.testing.simulation import Simulation as Simulation
    from paintkit.testing.simulation import simulate as simulate
    from paintkit.testing.transports import TransportContract as TransportContract

_HOMES = {
    "Blow": "_chaos",
    "CacheLevelContract": "contracts",
    "CacheLevelOutageContract": "contracts",
    "Chaos": "_chaos",
    "FakeClock": "clock",
    "FakeLevel": "levels",
    "FakeServer": "levels",
    "MutatedValueError": "caches",
    "Outage": "_outage",
    "Scripted": "_scripted",
    "ScriptedAsync": "_scripted",
    "ascripted": "_scripted",
    "assert_loads": "caches",
    "chaos": "_chaos",
    "mutation_guard": "caches",
    "scripted": "_scripted",
    "simulate": "simulation",
    "Simulation": "simulation",
    "SimulatedOutageError": "simulation",
    "TransportContract": "transports",
}

__all__ = [
    "Blow",
    "CacheLevelContract",
    "CacheLevelOutageContract",
    "Chaos",
    "FakeClock",
    "FakeLevel",
    "FakeServer",
    "MutatedValueError",
    "Outage",
    "Scripted",
    "ScriptedAsync",
    "SimulatedOutageError",
    "Simulation",
    "TransportContract",
    "ascripted",
    "assert_loads",
    "chaos",
    "mutation_guard",
    "scripted",
    "simulate",
    "strategies",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    from paintkit._extras import Extra

    if name == "strategies":
        with Extra("testing"):
            return import_module("paintkit.testing.strategies")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'paintkit.testing' has no attribute {name!r}")
    with Extra("testing"):
        value = getattr(import_module(f"paintkit.testing.{home}"), name)
    globals()[name] = value  # found at once from now on
    return value


def __dir__() -> list[str]:
    return __all__
