"""A process that counts, for the tests of `Workers`: obeys words on its standard input and answers with one line each."""

import os
import sys
import time
from pathlib import Path

from paintkit import PerformanceMonitor
from paintkit.monitor.gathering import gather
from paintkit.monitor.workers import Workers
from paintkit.telemetry import Metric, Sample


class Jobs:
    """A gauge beside the counters."""

    def telemetry(self):
        yield Metric("studio.jobs", "gauge", "{job}", "Jobs.", (Sample({}, 5),))


def numbers(workers):
    found = {metric.name: metric.samples for metric in gather([workers])}
    mixed = found.get("paintkit.duration", ())
    return " ".join(
        [
            f"workers={found['paintkit.workers'][0].value if 'paintkit.workers' in found else 0}",
            f"jobs={found['studio.jobs'][0].value if 'studio.jobs' in found else 0}",
            f"mixed={sum(one.value['count'] for one in mixed)}",
        ]
    )


def main(folder):
    monitor = PerformanceMonitor()
    workers = Workers(folder, monitor, Jobs(), interval=3600.0)
    commands = {
        "start": lambda: start(workers, folder),
        "write": workers.write,
        "record": lambda: monitor.record("mix", 0.25),
        "sum": lambda: numbers(workers),
        "fork": lambda: fork(workers, monitor),
        "exit": sys.exit,
    }
    for line in sys.stdin:
        sys.stdout.write(f"{commands[line.strip()]() or 'done'}\n")
        sys.stdout.flush()


def start(workers, folder):
    """Start, and wait until the thread has written for the only time: what follows is in the hands of the test."""
    workers.start()
    while not list(Path(folder).glob(f"{os.getpid()}-*.json")):
        time.sleep(0.001)


def fork(workers, monitor):
    """Leave a child behind that lives on, counts, and never writes; return its number when it has got so far."""
    arrived, arrive = os.pipe()
    child = os.fork()
    if not child:
        monitor.record("mix", 0.25)
        workers.write()
        os.write(arrive, b".")
        while sys.stdin.readline():
            pass
        os._exit(0)
    os.read(arrived, 1)
    return child


if __name__ == "__main__":
    main(sys.argv[1])
