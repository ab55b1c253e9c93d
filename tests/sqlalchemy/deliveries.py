"""A history of events, and what is wrong with it."""

from collections import Counter
from typing import NamedTuple


class History(NamedTuple):
    """What publishers and handlers did, as those who look from outside know it.

    Attributes:
        committed: The keys and numbers of the events whose work was stored, in the order of the commits of each key.
        effects: The keys and numbers that the handlers have stored, in the order in which they did.
    """

    committed: list[tuple[str, int]]
    effects: list[tuple[str, int]]


def faults(history):
    """Return the kinds of faults of a history: an event may be neither lost, nor doubled, nor made up, nor overtaken."""
    found, counts = set(), Counter(history.effects)
    if set(history.committed) - counts.keys():
        found.add("lost")
    if counts.keys() - set(history.committed):
        found.add("made up")
    if any(count > 1 for count in counts.values()):
        found.add("doubled")
    for key in {key for key, _ in history.committed}:
        first = list(dict.fromkeys(number for one, number in history.effects if one == key))
        if first != sorted(first):
            found.add("overtaken")
    return found
