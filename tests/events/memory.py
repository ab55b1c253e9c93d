"""A transport that keeps everything in a list, for the tests of what a bus asks of one."""

from paintkit import ambient


class MemoryTransport:
    """Delivers when told to, to those who still have to hear."""

    def __init__(self, *, transactional=True, kinds=("work", "broadcast")):
        self.transactional = transactional
        self.kinds = kinds
        self.bus = None
        self.stored = []
        self.done = set()
        self.receivers = []

    def attach(self, bus):
        if self.bus is not None:
            raise ValueError("this transport has a bus already")
        self.bus = bus

    def admit(self, receiver):
        if receiver.kind not in self.kinds:
            raise ValueError(f"no {receiver.kind} here")
        self.receivers.append(receiver)

    def dismiss(self, receiver):
        self.receivers.remove(receiver)

    def enlist(self, envelope):
        if self.transactional:
            ambient.unit_of_work.get().defer(lambda: self.stored.append(envelope))
        return self.transactional

    def send(self, envelope):
        self.stored.append(envelope)

    async def asend(self, envelope):
        self.stored.append(envelope)

    def deliver(self):
        """Give every event to those who have not handled it."""
        for envelope in self.stored:
            for receiver in self.bus.receivers():
                if receiver.wants(envelope.type) and (receiver.name, envelope.id) not in self.done:
                    try:
                        receiver.deliver(envelope)
                    except Exception as error:
                        receiver.settle(envelope, error)
                    else:
                        self.done.add((receiver.name, envelope.id))
                        receiver.settle(envelope, None)
