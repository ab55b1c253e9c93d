"""An outbox of both colours, on empty tables of its own, over the databases of a `House`."""

from typing import Any

from sqlalchemy import Column, Integer, MetaData, String, Table, delete, insert, select

from paintkit import EventBus, backoff
from paintkit.sqlalchemy import Outbox

#: What handlers store: the effect that has to be there once for each event.
EFFECT = Table(
    "effect",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("handler", String(50)),
    Column("what", String(50)),
)


class Office:
    """A bus with an outbox.

    A scenario awaits what it does, in the colour of the house's manager.
    """

    def __init__(self, house: Any, **options: Any) -> None:
        self.house = house
        self.is_async = house.db.is_async
        self.outbox = self.another(**options)
        self.bus = EventBus("studio", transport=self.outbox)

    def another(self, **options: Any) -> Outbox:
        """Return another outbox over the same tables, as another process has one."""
        defaults = {"backoff": backoff.constant(10.0), "max_attempts": 3, "handler_timeout": None}
        return Outbox(self.house.db, **defaults | options)

    async def open(self) -> None:
        """Empty the tables."""
        await self.do("create_tables")
        await self.house._on_engine(EFFECT.metadata.create_all)
        async with self.house.unit():
            for table in (*self.outbox.store.tables, EFFECT):
                await self.house.execute(delete(table))

    async def do(self, name: str, *args: Any, on: Any = None, **kwargs: Any) -> Any:
        """Call a method of the outbox, or of `on`, or its twin."""
        target = self.outbox if on is None else on
        method = getattr(target, f"a{name}" if self.is_async else name)
        return await self.house.settle(method(*args, **kwargs))

    async def publish(self, *args: Any, **kwargs: Any) -> None:
        """Publish in this colour."""
        await self.do("publish", *args, on=self.bus, **kwargs)

    async def store(self, handler: str, what: object) -> None:
        """Store an effect in the unit of work around a handler."""
        await self.house.execute(insert(EFFECT).values(handler=handler, what=str(what)))

    def storing(self, name: str, event_type: str = "*", before: Any = None, **options: Any) -> None:
        """Subscribe a handler that stores what it hears; `before` may raise."""

        async def body(data: Any) -> None:
            if before is not None:
                await self.house.settle(before(data))
            await self.store(name, data)

        self.bus.subscribe(event_type, self.house.function(body), name=name, **options)

    async def effects(self) -> list[tuple[str, str]]:
        """Return what is stored for good, in order."""
        query = select(EFFECT.c.handler, EFFECT.c.what).order_by(EFFECT.c.id)
        async with self.house.unit(read_only=True):
            return [tuple(row) for row in (await self.house.execute(query)).all()]
