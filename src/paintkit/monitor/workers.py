"""Numbers of several processes as one: each writes its own to a folder, and whoever is asked adds them up.

A process holds a lock on its file for as long as it lives, and the system lets go of it however the process ends. So a
file that can be locked was left behind: its counters and histograms are kept, in one file for all who are gone, and what
there was at that moment (open connections, say) is forgotten.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from paintkit import _arguments
from paintkit.histogram import Histogram
from paintkit.monitor.gathering import checked, gather
from paintkit.telemetry import Metric, Sample

if TYPE_CHECKING:
    from paintkit.telemetry import Source
    from paintkit.typing import Seconds

__all__ = ["Workers"]

_VERSION: Final = 1
_GONE: Final = "gone"
_SUFFIX: Final = ".json"

# A file that a process began to write and did not finish; nobody takes so many seconds.
_ABANDONED: Final = 60.0


class Workers:
    """The numbers of this process and of all others that share its folder, added up.

    A source like any other: hand it to an exporter in place of the sources that it stands for. The others are as old as
    their last writing. A process that is killed loses what it counted since then; one that ends in order loses nothing.

    Args:
        directory: A folder of this application alone, on a local disk, best one that a restart empties; made if it is not
            there. Whoever can write to it can make up numbers.
        sources: What to tell: monitors, caches, registries, …: whatever has `telemetry()`.
        interval: Seconds (> 0) or a `timedelta` between two writings.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: `interval` is out of range.
        OSError: The folder cannot be made, or the system has no file locks of this kind (Windows).

    Example:
        >>> from paintkit import PerformanceMonitor
        >>> monitor = PerformanceMonitor()
        >>> with tempfile.TemporaryDirectory() as folder, Workers(folder, monitor) as workers:
        ...     monitor.record("mix", 0.25)
        ...     [metric.name for metric in gather([workers])][:2]
        ['paintkit.workers', 'paintkit.duration']
    """

    def __init__(self, directory: str | os.PathLike[str], *sources: Source, interval: Seconds = 5.0) -> None:
        if not isinstance(directory, str | os.PathLike):
            raise TypeError(
                f"directory must be the path of a folder that all workers see, not {directory!r} ({type(directory).__name__})"
            )
        self._sources = checked(sources)
        self._interval = _arguments.seconds("interval", interval)
        self._folder = _Folder(Path(directory))
        self._changing = threading.Lock()  # guards all below, and lets one thread write at a time
        self._is_closed = False
        self._pid: int | None = None
        self._page: _Page | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        _all.add(self)

    def start(self) -> None:
        """Write from now on, in a thread of its own; nothing happens if it has started in this process already.

        Not when it is made: a process that only forks the workers must not have threads, nor be counted as one of them.
        """
        if self._pid == os.getpid():
            return
        with self._changing:
            if self._pid == os.getpid():
                return
            import atexit

            self._stopped = threading.Event()
            self._page = _Page(self._folder.path)
            self._pid = os.getpid()
            atexit.register(self.close)
            self._thread = threading.Thread(
                target=self._run, args=(self._stopped,), name="paintkit writes its numbers", daemon=True
            )
            self._thread.start()

    def write(self) -> None:
        """Write the numbers of this process now, if it has started."""
        with self._changing:
            if self._page is not None and self._pid == os.getpid():
                self._page.write(_dumped(self._own(), []))

    def telemetry(self) -> Iterable[Metric]:
        """Return the numbers of all processes; those of one name are added up by whoever gathers them."""
        if self._is_closed:  # what this process had to tell is among what is left
            return self._folder.read(None)
        return [*self._own(), *self._folder.read(None if self._page is None else self._page.path)]

    def close(self) -> None:
        """Write for the last time, and count as gone."""
        with self._changing:
            page, self._page = self._page, None
            if page is None or self._pid != os.getpid():
                return
            self._is_closed = True
            self._stopped.set()
            try:
                page.write(_dumped(self._own(), []))
            finally:
                page.leave()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Workers:
        self.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def _own(self) -> list[Metric]:
        one = Metric("paintkit.workers", "gauge", "{process}", "Processes that tell.", (Sample({}, 1),))
        return [one, *gather(self._sources)]

    def _run(self, stopped: threading.Event) -> None:
        while True:
            try:
                self.write()
            except OSError:
                import logging

                logging.getLogger("paintkit.monitor").exception("the numbers cannot be written")
            if stopped.wait(self._interval):
                return

    def _forget(self) -> None:
        """In a forked child: the file is the parent's, and so is its lock, which a copy must not hold on to."""
        self._changing = threading.Lock()
        page, self._page, self._pid = self._page, None, None
        if page is not None:
            page.leave()


class _Page:
    """The file of one process."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        self._held: int | None = None

    def write(self, text: bytes) -> None:
        """Put a new file in the place of the old one; at every moment the one that is there is locked."""
        held = _put(self.path, text, locked=True)
        self.leave()
        self._held = held

    def leave(self) -> None:
        """Let go of the lock."""
        held, self._held = self._held, None
        if held is not None:
            os.close(held)


class _Folder:
    """The files of all processes."""

    def __init__(self, path: Path) -> None:
        if importlib.util.find_spec("fcntl") is None:
            raise OSError(
                "this system has no file locks that end with a process: workers need Linux, macOS or BSD"
            )
        path.mkdir(parents=True, exist_ok=True)
        self.path = path

    def read(self, own: Path | None) -> list[Metric]:
        """Return what the others have written, and what those have left that are gone."""
        with self._alone():
            gone, merged = self._gone()
            told: list[Metric] = []
            left: dict[Path, list[Metric]] = {}
            for path in sorted(self.path.glob(f"*-*{_SUFFIX}")):
                if path == own:
                    continue
                if path.name in merged:  # whoever merged it was killed before it could take it away
                    path.unlink(missing_ok=True)
                    continue
                metrics, is_left = _look(path)
                if is_left:
                    left[path] = metrics
                else:
                    told += metrics
            if left:
                gone = gather([_Told([*gone, *(one for metrics in left.values() for one in metrics)])])
                gone = [metric for metric in gone if metric.kind != "gauge"]
                os.close(_put(self.path / f"{_GONE}{_SUFFIX}", _dumped(gone, [path.name for path in left])))
                for path in left:
                    path.unlink(missing_ok=True)
            self._tidy()
        return [*told, *gone]

    def _gone(self) -> tuple[list[Metric], list[str]]:
        path = self.path / f"{_GONE}{_SUFFIX}"
        try:
            return _read(path, path.read_bytes())
        except FileNotFoundError:
            return [], []

    def _tidy(self) -> None:
        for path in self.path.glob("*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process read at a time: reading also clears away."""
        import fcntl

        with (self.path / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class _Told:
    """Metrics as a source."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def telemetry(self) -> list[Metric]:
        return self._metrics


def _look(path: Path) -> tuple[list[Metric], bool]:
    """Return what a file says, and whether its process is gone."""
    import fcntl

    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                # Unless its process has just put another file in its place.
                is_left = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except BlockingIOError:
                is_left = False
            text = file.read()
    except FileNotFoundError:
        return [], False
    return _read(path, text)[0], is_left


def _read(path: Path, text: bytes) -> tuple[list[Metric], list[str]]:
    """Do as `_loaded` does; what is no file of ours holds nothing."""
    try:
        return _loaded(text)
    except ValueError:
        import logging

        logging.getLogger("paintkit.monitor").exception("%s holds no numbers, and is left out", path.name)
        return [], []


def _put(path: Path, text: bytes, *, locked: bool = False) -> int:
    """Write a file as a whole, and return it open."""
    import fcntl

    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        if locked:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        os.close(descriptor)
        Path(temporary).unlink(missing_ok=True)
        raise
    return descriptor


def _dumped(metrics: list[Metric], merged: list[str]) -> bytes:
    return json.dumps({"version": _VERSION, "metrics": metrics, "merged": merged}).encode()


def _loaded(text: bytes) -> tuple[list[Metric], list[str]]:
    """Return the metrics, and the names of the files that are in them already.

    Raises:
        ValueError: It is no file of ours, or one of another version.
    """
    whole = json.loads(text)
    try:
        if whole["version"] != _VERSION:
            raise ValueError(f"written by another version: {whole['version']!r}")
        return [_metric(*one) for one in whole["metrics"]], [str(name) for name in whole["merged"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"not the numbers of a process: {error!r}") from error


def _metric(name: str, kind: Any, unit: str, text: str, samples: list[Any]) -> Metric:
    return Metric(name, kind, unit, text, tuple(_sample(*sample) for sample in samples))


def _sample(labels: Mapping[str, str], value: Any) -> Sample:
    if isinstance(value, Mapping):
        whole = Histogram()
        whole.merge(value)  # type: ignore[arg-type]  # which looks whether it is one
        value = whole.snapshot()
    return Sample(dict(labels), value)


_all: weakref.WeakSet[Workers] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for workers in list(_all):
        workers._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
