"""What carries events between processes, as an event bus needs it.

The bus makes an `Envelope` of every event and hands it over; whoever listens hears what the transport delivers, in
whatever process that runs. Delivery is at least once, and each receiver is acknowledged by itself.
"""

from __future__ import annotations

from typing import Protocol

from paintkit.envelope import Envelope, Kind, Receiver, Receivers, current_event

__all__ = ["Envelope", "Kind", "Receiver", "Receivers", "Transport", "current_event"]


class Transport(Protocol):
    """Takes events from one bus, and delivers them to its receivers here or in another process.

    What is published becomes certain either with the unit of work around it (`enlist`), or by `send`. From then on every
    receiver of kind `"work"` gets it at least once in one process, until it returns without an error or the event is put
    aside as a dead letter; a receiver of kind `"broadcast"` gets it in every process that listens then.

    To deliver, a transport asks the bus for its `receivers()`, calls `deliver` (or awaits `adeliver`) of each that `wants`
    the event, outside of the publisher's context, and tells the outcome to `settle`. An error is that receiver's alone:
    the others are neither kept from the event nor given it again.
    """

    def attach(self, bus: Receivers) -> None:
        """Belong to this bus from now on; called once, by its construction.

        Raises:
            ValueError: The transport has a bus already.
        """
        ...

    def admit(self, receiver: Receiver) -> None:
        """Get ready for a receiver that is about to be subscribed.

        Raises:
            ValueError: This transport cannot give it what it needs: its kind, its colour.
        """
        ...

    def dismiss(self, receiver: Receiver) -> None:
        """A receiver is subscribed no more."""
        ...

    def enlist(self, envelope: Envelope) -> bool:
        """Make the event part of the open unit of work, stored if and only if that is; nothing may be awaited here.

        Returns:
            False if this transport has no part in that unit's transaction: the bus then sends the event after the commit.
        """
        ...

    def send(self, envelope: Envelope) -> None:
        """Take the event; it is certain when this returns. Called where no unit of work is open, or after its commit."""
        ...

    async def asend(self, envelope: Envelope) -> None:
        """Do as `send` does, awaiting."""
        ...
