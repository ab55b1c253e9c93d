"""What it takes to test resilient code: a virtual clock, scripted callables, and Hypothesis strategies.

`FakeClock` and the scripted callables need nothing but paintkit; `paintkit.testing.strategies` needs the extra
`paintkit[testing]`. The pytest plugin `paintkit.testing.plugin` offers them as fixtures.
"""

from __future__ import annotations

from paintkit.testing.clock import FakeClock

__all__ = ["FakeClock"]
