"""Two threads meet in every order at the places where policies take no lock, or must."""

import subprocess
import sys
from pathlib import Path

import pytest

# Hundreds of orders are work, which a busy machine may do slowly.
pytestmark = pytest.mark.timeout(900)


def verdict(scenario: str, variant: str) -> str:
    """Explore the orders in a program of its own: that patches locks for the whole process."""
    frontrun = Path(sys.executable).with_name("frontrun")
    command = [frontrun, sys.executable, "-m", "tests.policies.interleavings", scenario, variant]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert 0 == done.returncode, done.stderr
    return done.stdout.split("\n")[-2]


@pytest.mark.parametrize("scenario", ["queue", "newcomers", "probes"])
def test_every_order_is_sound(scenario):
    """No permit is lost, given twice or waited for in vain, and a half-open breaker admits its one probe."""
    assert "holds" == verdict(scenario, "real")


@pytest.mark.parametrize(
    ("scenario", "variant"), [("queue", "does not look again"), ("probes", "admits without a lock")]
)
def test_a_planted_fault_is_found(scenario, variant):
    """One that loses a wake-up, and one that admits two probes."""
    assert "broken" == verdict(scenario, variant)
