"""Checks a history of reads and writes of numbers, each name written upwards by one process, against what caches promise."""

from collections import defaultdict


def violations(events, lag):
    """Return the reads that returned less than they had to.

    A read has to return what was invalidated before it began: at once in the process that did it (P1), after the lag in the others (P2).
    """
    writes = defaultdict(list)
    for event in events:
        if event["did"] == "put":
            writes[event["name"]].append(event)
    return [
        (read, write)
        for read in events
        if read["did"] == "get"
        for write in writes[read["name"]]
        if write["value"] > read["value"]
        and write["ended"] + (0.0 if write["process"] == read["process"] else lag) < read["began"]
    ]
