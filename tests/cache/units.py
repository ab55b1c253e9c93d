"""A unit of work of tests: the protocol of `paintkit.ambient`, and nothing else."""

from contextlib import contextmanager

from paintkit import ambient


class FakeUnit:
    """Remembers what was marked and deferred; `commit` and `roll_back` end it."""

    def __init__(self):
        self.began = ambient.process.epoch
        self.wrote = False
        self.is_async = False
        self.over = False
        self.outer = None
        self._dirty = set()
        self._deferred = []

    def defer(self, action, /, *, even_if_unknown=False):
        self._deferred.append(action)

    def mark_dirty(self, tags, /):
        if not self._dirty:
            ambient.detour(+1)
        self._dirty.update(tags)

    def is_dirty(self, tags, /):
        return not self._dirty.isdisjoint(tags)

    def is_doomed(self):
        return False

    def commit(self):
        self._end()
        for action in self._deferred:
            action()

    def roll_back(self):
        self._end()

    def _end(self):
        self.over = True
        if self._dirty:
            ambient.detour(-1)
            self._dirty = set()


@contextmanager
def unit_of_work():
    """Open a unit that commits at the end of the block, or rolls back with its error."""
    unit = FakeUnit()
    token = ambient.unit_of_work.set(unit)
    try:
        yield unit
    except BaseException:
        ambient.unit_of_work.reset(token)
        unit.roll_back()
        raise
    ambient.unit_of_work.reset(token)
    unit.commit()
