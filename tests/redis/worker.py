"""A process with a cache on a Redis level, driven over pipes: one line of JSON in, one out.

What is true stands in files, one number each. `put` writes a number there and invalidates; `get` is the cached function. Instants are
those of the monotonic clock, which all processes of a machine share.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from paintkit import CacheManager
from paintkit.redis import RedisLevel, link, member, scripts
from paintkit.redis.commands import Commands
from paintkit.redis.kept import Kept
from paintkit.redis.wire import Script

ROOT = Path(__file__).parents[2]

# Seconds; what a worker never needs, however busy the machine is.
PATIENCE = 30.0


class Worker:
    """The test's end of the pipes."""

    def __init__(self, url, folder, *, fault="", **options):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
        arguments = json.dumps({"url": url, "folder": str(folder), "fault": fault, "options": options})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.redis.worker", arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.communicate()

    def send(self, do, **what):
        """Ask for something, without waiting for the answer."""
        self.process.stdin.write(json.dumps({"do": do} | what) + "\n")
        self.process.stdin.flush()

    def answer(self):
        """Return the answer to what was asked."""
        line = self.process.stdout.readline()
        assert line, f"the worker ended with {self.process.wait()}"
        return json.loads(line)

    def ask(self, do, **what):
        """Ask for something and return the answer."""
        self.send(do, **what)
        return self.answer()

    def get(self, name="red"):
        """Call the cached function."""
        return self.ask("get", name=name)["value"]

    def signal(self, number):
        """Send a signal."""
        self.process.send_signal(number)


class Paints:
    """A cached function, and the truth behind it."""

    def __init__(self, folder, level):
        self.folder, self.level = Path(folder), level
        self.loads = 0
        self.cache = CacheManager("faults", timeout=300.0, level2=level)
        self.paint = self.cache.cache_result(tags=lambda name: (f"paint:{name}",))(self.paint)

    def paint(self, name: str) -> int:
        """Read the truth, and stay on the way back as long as a file asks for it."""
        self.loads += 1
        value = int((self.folder / name).read_text())
        while (self.folder / f"{name}.hold").exists():
            (self.folder / f"{name}.read").touch()
            time.sleep(0.001)
        return value

    # --- What the test asks for ---

    def ready(self):
        """Wait until word arrives."""
        return {"connected": self.level.wait_until_connected(PATIENCE)}

    def connected(self):
        """Tell whether word arrives now."""
        return {"connected": self.level.is_connected}

    def get(self, name):
        """Call the cached function; tell what it returned, from when to when, and whether it loaded."""
        before, began = self.loads, time.monotonic()
        value = self.paint(name)
        return {"value": value, "began": began, "ended": time.monotonic(), "loads": self.loads - before}

    def put(self, name, value, by="call"):
        """Change the truth, and invalidate the call, its tag, its function or everything, or put the new value in its place."""
        path = self.folder / name
        draft = path.with_suffix(".draft")
        draft.write_text(str(value))
        draft.replace(path)
        began = time.monotonic()
        if by == "call":
            self.paint.invalidate(name)
        elif by == "tag":
            self.cache.invalidate(f"paint:{name}")
        elif by == "function":
            self.cache.invalidate(self.paint)
        elif by == "value":
            self.paint.put(value, name)
        else:
            self.cache.invalidate()
        return {"value": value, "began": began, "ended": time.monotonic()}

    def watch(self, name, value, since=float("inf"), seconds=PATIENCE):
        """Call until a value comes, or an older one in a call that began after some instant; tell what came, and when.

        The instant at which the last call began that got an older one tells how late the value is; when it came does not, for
        the machine may have paused.
        """
        late, give_up = None, time.monotonic() + seconds
        while True:
            found = self.get(name)
            if found["value"] < value:
                late = found["began"]
            if found["value"] >= value or late > min(since, give_up):
                return found | {"late": late}

    def stats(self):
        """Return the level's totals."""
        return self.level.stats()

    def live(self, seconds, least, mine, others, seed):
        """Read and write for a while, and so many times at least; return all that happened, for the history.

        Every name is written by one worker only, upwards.
        """
        dice, events = random.Random(seed), []
        numbers = {name: int((self.folder / name).read_text()) for name in mine}
        due = time.monotonic() + seconds
        while time.monotonic() < due or len(events) < least:
            if mine and dice.random() < 0.1:
                name = dice.choice(mine)
                numbers[name] += 1
                did = self.put(name, numbers[name], dice.choice(["call", "tag", "call"]))
                events.append({"did": "put", "name": name} | did)
            else:
                name = dice.choice(mine + others)
                events.append({"did": "get", "name": name} | self.get(name))
            time.sleep(dice.random() * 0.002)
        return {"events": events}


def _no_gaps(monkey):
    """A link that goes on as if it had missed nothing, and had never been lost."""
    monkey(link.Link, "_begin", _begin_silently)
    monkey(member.Member, "distrust", lambda self: None)


def _begin_silently(self, feed, member):
    run, number, last = feed.control.run(self._commands.greet(member.names))
    member.position = link.Position(run, int(number), last)
    member.vouch(link.clock.now(), self._lag)


def _no_greeting(monkey):
    """A greeting that takes note of another server, and believes what it has."""
    source = scripts.GREET.source.decode().replace("redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])", "")
    monkey(scripts, "GREET", Script(source))


def _blind_fill(monkey):
    """A fill that does not compare: what a late load brings stands."""
    source = scripts.FILL.source.decode().replace("~= ARGV[1] then", "== 'never' then")
    monkey(scripts, "FILL", Script(source))


def _deaf(monkey):
    """A link that hears nothing, and is trusted."""
    monkey(link, "_apply", lambda member, change: None)


def _unaware(monkey):
    """A link that hears nothing, misses nothing, and is trusted for ever: a server takes its time to be back."""
    _trusting(monkey)
    _no_gaps(monkey)


def _trusting(monkey):
    """A link that hears nothing, and is trusted for ever, also when it is lost: a busy machine may lose it at any time."""
    _deaf(monkey)
    monkey(member.Member, "vouch", _vouch_for_ever)
    monkey(member.Member, "distrust", lambda self: None)


def _vouch_for_ever(self, heard, _lag):
    self._trust.heard, self._trust.until = heard, float("inf")


def _forgetful(monkey):
    """A level that does not keep what it could not tell."""
    monkey(Kept, "keep", lambda self, changes: None)


def _untold(monkey):
    """A level that tells nobody of a value that takes the place of another."""
    right = Commands.fill
    monkey(Commands, "fill", lambda self, *what, tell: right(self, *what, tell=False))


FAULTS = {
    "": lambda monkey: None,
    "gaps go unnoticed": _no_gaps,
    "restarts go unnoticed": _no_greeting,
    "a fill compares nothing": _blind_fill,
    "nobody hears anything": _deaf,
    "nobody hears or misses anything, and trust has no end": _unaware,
    "nobody hears anything, and trust has no end": _trusting,
    "nothing is kept": _forgetful,
    "nobody is told what is put": _untold,
}


def main():
    """Do what comes in, line by line."""
    given = json.loads(sys.argv[1])
    FAULTS[given["fault"]](setattr)
    level = RedisLevel(given["url"], **given["options"])
    paints = Paints(given["folder"], level)
    for line in sys.stdin:
        asked = json.loads(line)
        answer = getattr(paints, asked.pop("do"))(**asked)
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
