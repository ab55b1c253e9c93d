"""A network of a test's own, with one host in it that can vanish: no farewell, no refusal, just silence."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


class Network:
    """A network namespace behind a pair of virtual cables.

    Args:
        ip: The program `ip`; it needs root.
    """

    def __init__(self, ip: str) -> None:
        self._ip = ip
        self._name = f"paintkit-{os.getpid()}"
        self._link = f"pk{os.getpid()}"
        prefix = f"10.{200 + os.getpid() // 256 % 50}.{os.getpid() % 256}"
        #: The address of the host within; ours is the other.
        self.host, self._ours = f"{prefix}.2", f"{prefix}.1"
        #: What a command begins with, to run on the host within.
        self.inside = ["nsenter", f"--net=/run/netns/{self._name}"]

    def vanish(self) -> None:
        """Let the host within answer nothing more, not even that packets have arrived."""
        self._run("-n", self._name, "route", "add", "blackhole", f"{self._ours}/32")

    def heal(self) -> None:
        """Let it answer again."""
        self._run("-n", self._name, "route", "del", "blackhole", f"{self._ours}/32")

    def open(self) -> None:
        """Lay the cables."""
        within = ("-n", self._name)
        self._run("netns", "add", self._name)
        self._run("link", "add", self._link, "type", "veth", "peer", "name", "within", "netns", self._name)
        self._run("addr", "add", f"{self._ours}/30", "dev", self._link)
        self._run("link", "set", self._link, "up")
        self._run(*within, "addr", "add", f"{self.host}/30", "dev", "within")
        self._run(*within, "link", "set", "within", "up")
        self._run(*within, "link", "set", "lo", "up")

    def close(self) -> None:
        """Tear it down; with the namespace its end of the cables goes, and with one end the other."""
        self._run("netns", "del", self._name)

    def _run(self, *arguments: str) -> None:
        subprocess.run([self._ip, *arguments], check=True, capture_output=True)


@contextmanager
def network(ip: str) -> Iterator[Network]:
    """Open a network, for a block."""
    opened = Network(ip)
    opened.open()
    try:
        yield opened
    finally:
        opened.close()
