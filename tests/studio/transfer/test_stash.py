"""Laws of the stash."""

import os

from studio.transfer.stash import Stash


def test_a_file_is_found_by_its_ticket(tmp_path):
    """And by nothing else."""
    stash = Stash(tmp_path)
    ticket = stash.keep(b"brand\n")
    assert b"brand\n" == stash.find(ticket)
    assert [None] * 4 == [
        stash.find(wrong) for wrong in ("", ticket[:-1], "0" * 64, f"../{tmp_path.name}/{ticket}")
    ]
    stash.drop(ticket)
    assert stash.find(ticket) is None


def test_old_files_leave(tmp_path):
    """A file of more than an hour ago makes room for the next."""
    stash = Stash(tmp_path)
    old = stash.keep(b"old")
    os.utime(tmp_path / f"{old}.csv", (0, 0))
    new = stash.keep(b"new")
    assert (None, b"new") == (stash.find(old), stash.find(new))
