"""The link: one thread of a level, by which its caches hear what other processes changed.

As long as it hears from the server it moves every cache's trust on: copies in memory need not be asked about. It loses
that trust with the connection, and gives it back once all that was said meanwhile has been heard. Where that is not to be
had, the cache is told that there is a gap, and takes its copies for unverified before the trust is back.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from paintkit import clock
from paintkit._locks import new_lock
from paintkit.redis.away import keep_on
from paintkit.redis.feeds import Feed, Heard, Position

if TYPE_CHECKING:
    from weakref import WeakValueDictionary

    from paintkit.redis.commands import Commands
    from paintkit.redis.kept import Change
    from paintkit.redis.member import Member
    from paintkit.redis.messages import Message
    from paintkit.redis.names import Names

__all__ = ["BEAT", "Link"]

_LOG = logging.getLogger("paintkit.redis")

#: Seconds after which the server says that nothing has happened.
BEAT = 0.25

# Seconds that closing waits for the thread.
_FAREWELL = 2.0


class _Replaced(Exception):  # noqa: N818 - it ends a connection, and is no fault
    """The server is not the one that was greeted, or has forgotten that it was."""


class Link:
    """Hears for all caches of a level.

    Args:
        members: The caches; known weakly, so that one that nobody uses any more can go.
        commands: Makes what is said to the server.
        connect: Makes a feed; it connects when it is used.
        on_whole: Called whenever the link is whole again.
        lag: Seconds; for how long copies may be served after the last word.
    """

    def __init__(
        self,
        members: WeakValueDictionary[str, Member],
        commands: Commands,
        connect: Callable[[], Feed],
        on_whole: Callable[[], object],
        lag: float,
    ) -> None:
        self._members = members
        self._commands = commands
        self._connect = connect
        self._on_whole = on_whole
        self._lag = lag
        self._starting = new_lock()  # guards the start of the thread
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._whole = threading.Event()
        self._feed: Feed | None = None

    def ensure(self) -> None:
        """Start the thread, if it does not run yet."""
        if self._thread is None and not self._stop.is_set():
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="cache-link", daemon=True)
                    self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Block until the link is whole, or for so many seconds."""
        return self._whole.wait(seconds)

    def stop(self) -> None:
        """Let the thread end, also one that listens: it finds its connection closed."""
        self._stop.set()
        feed = self._feed
        if feed is not None:
            feed.close()

    def join(self) -> None:
        """Wait until the thread has ended."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_FAREWELL)

    def revive(self) -> None:
        """Begin anew in a forked child, at the first look: what has been heard is still true, but not up to now."""
        self._thread = self._feed = None
        self._whole = threading.Event()
        stopped, self._stop = self._stop.is_set(), threading.Event()
        if stopped:
            self._stop.set()
        self._distrust()

    def _run(self) -> None:
        keep_on("the link of the caches", self._session, stop=self._stop, connected=self._whole)

    def _session(self) -> None:
        """Listen until the connection breaks, and trust nothing that was heard when it has."""
        try:
            self._listen()
        except _Replaced:
            _LOG.debug("caches hear from another server, or one that has begun anew")
        finally:
            self._distrust()

    def _distrust(self) -> None:
        for member in list(self._members.values()):
            member.distrust()

    def _listen(self) -> None:
        feed = self._feed = self._connect()
        try:
            followed: set[Names] = set()
            while not self._stop.is_set():
                positions = self._prepare(feed, followed)
                if not positions:
                    return
                asked = clock.now()
                # The first time, only to learn what there is already.
                heard = feed.hear(positions, BEAT if self._whole.is_set() else 0.0)
                for names, news in heard.items():
                    self._take_in(feed, names, news, asked)
                self._note_whole()
        finally:
            self._feed = None
            feed.close()

    def _note_whole(self) -> None:
        if not self._whole.is_set():
            self._whole.set()
            self._on_whole()

    def _prepare(self, feed: Feed, followed: set[Names]) -> dict[Names, Position]:
        """Begin to listen for caches that are new here, say what they had to keep, and return how far each one is.

        No cache is held on to by this thread when it returns.
        """
        members = list(self._members.values())
        feed.follow([member.names for member in members if member.names not in followed])
        positions = {}
        for member in members:
            if member.names not in followed:
                self._resume(feed, member)
                followed.add(member.names)
            self._tell(feed, member)
            if member.position is not None:
                positions[member.names] = member.position
        return positions

    def _resume(self, feed: Feed, member: Member) -> None:
        """Go on where the cache stopped listening, if this is still the server that said all that."""
        run, *_ = feed.control.run(self._commands.greet(member.names))
        if member.position is None or member.position.run != run:
            self._begin(feed, member)

    def _begin(self, feed: Feed, member: Member) -> None:
        """Listen from now on; whatever was said before counts as missed."""
        member.distrust()
        asked = clock.now()
        run, number, last = feed.control.run(self._commands.greet(member.names))
        member.position = Position(run, int(number), last)
        member.listener.gap()
        member.vouch(asked, self._lag)

    def _tell(self, feed: Feed, member: Member) -> None:
        """Repeat what the server has not been told; copies that were made meanwhile have to be verified."""
        pending = member.kept.pending()
        if not pending:
            return
        for command in self._commands.drops(member.names, list(pending)):
            feed.control.run(command)
        member.kept.told(pending)
        self._begin(feed, member)

    def _take_in(self, feed: Feed, names: Names, heard: Heard, asked: float) -> None:
        """Pass on what was heard; notice what was not."""
        member = self._members.get(names.namespace)
        if member is None or member.names is not names or member.position is None:
            return  # it left while we listened
        position = member.position
        if heard.run != position.run:
            raise _Replaced
        whole = position.number <= heard.number  # else they were counted anew
        for message in heard.messages:
            whole = message.number == position.number + 1 and self._pass_on(member, message) and whole
            position.number = message.number
        if whole and position.number >= heard.number:
            member.vouch(asked, self._lag)
        else:
            self._begin(feed, member)

    def _pass_on(self, member: Member, message: Message) -> bool:
        """Tell a cache what has changed; return whether it knows now."""
        if message.changes is None:
            return False
        if message.sender != self._commands.sender:
            for change in message.changes:
                _apply(member, change)
        return True


def _apply(member: Member, change: Change) -> None:
    if change.kind == "p":
        member.listener.changed_at(change.name)
    else:
        member.listener.changed(change.name)
