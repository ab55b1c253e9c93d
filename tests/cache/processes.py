"""Several processes in one: caches of one name, each with a way of its own to one server."""

import asyncio
import contextvars

from paintkit import CacheManager
from paintkit.testing import FakeLevel
from tests.cache.threads import Running
from tests.colours import Colour


class Process:
    """One of several processes that run the same program."""

    def __init__(self, server, colour, **options):
        self.level = FakeLevel(server)
        self.cache = CacheManager("shop", level2=self.level, **options)
        self.colour = colour
        self.loads = []

    def define(self, table, **options):
        """Define the function that all processes have; it reads a table that they share."""
        self.table = table
        options.setdefault("tags", lambda sku: (f"sku:{sku}", "prices"))

        def price(sku):
            self.loads.append(sku)
            answer = table[sku]
            if isinstance(answer, Exception):
                raise answer
            return answer

        self.price = self.cache.cache_result(**options)(self.colour.function(price))
        return self

    def __call__(self, sku="red"):
        """Ask for a price."""
        return self.colour.call(self.price, sku)

    def aside(self, call, *args):
        """Make a call of this process while another one is in the middle of something."""
        if self.colour is Colour.BLOCKING:
            return contextvars.Context().run(call, *args)
        return Running(lambda: asyncio.run(call(*args))).result()

    def at(self, step, action):
        """Let something happen when this process comes to a step, once."""

        def interlude(reached):
            if reached == step:
                self.level.interlude = lambda _step: None
                action()

        self.level.interlude = interlude

    def drop(self, sku="red"):
        """Invalidate one call."""
        self.colour.call(self.price.invalidate, sku)

    def invalidate(self, how):
        """Invalidate what concerns the price of red, in one of several ways, whatever else is going on."""
        if how == "call":
            self.aside(self.price.invalidate, "red")
            return
        drop = self.cache.invalidate if self.colour is Colour.BLOCKING else self.cache.ainvalidate
        what = {"tag": "sku:red", "common tag": "prices", "function": self.price}
        self.aside(drop, *([what[how]] if how in what else []))

    @property
    def stats(self):
        """What the cache tells."""
        return self.cache.get_stats()


#: Every way to name what concerns the price of red.
WAYS = ("call", "tag", "common tag", "function", "everything")
