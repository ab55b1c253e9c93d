"""Laws of the folder of pictures."""

import threading

import pytest

from studio.swatches.store import FolderImageStore


def test_what_was_put_is_got(tmp_path):
    """A picture comes back as it was; an unknown one is None."""
    store = FolderImageStore(tmp_path / "new")
    assert store.get("a.webp") is None
    store.put("a.webp", b"picture")
    assert b"picture" == store.get("a.webp")


@pytest.mark.parametrize(
    "key", ["../x", "/etc/passwd", "", ".hidden", "a/b", "a\x00", "A.webp", "a..b", "a" * 101]
)
def test_only_our_own_names(tmp_path, key):
    """No name leads out of the folder."""
    store = FolderImageStore(tmp_path)
    for use in (lambda: store.get(key), lambda: store.put(key, b"")):
        with pytest.raises(ValueError, match="no name of a picture"):
            use()


def test_a_reader_sees_a_whole_picture(tmp_path):
    """While others write, every read gives one of the whole pictures."""
    store, sizes = FolderImageStore(tmp_path), (50_000, 70_000)
    store.put("a.webp", b"x" * sizes[0])
    writers = [
        threading.Thread(target=lambda: [store.put("a.webp", b"x" * size) for size in sizes * 10])
        for _ in range(3)
    ]
    for writer in writers:
        writer.start()
    seen = {len(store.get("a.webp")) for _ in range(200)}
    for writer in writers:
        writer.join()
    assert seen <= set(sizes)
    assert ["a.webp"] == [path.name for path in tmp_path.iterdir()]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    """What could not be finished is removed."""
    store = FolderImageStore(tmp_path)
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        store.put("a.webp", b"picture")
    assert [] == list(tmp_path.iterdir())


def test_close_sweeps_up(tmp_path):
    """Parts that a crash left behind go at the end."""
    (tmp_path / ".x.part").write_bytes(b"")
    FolderImageStore(tmp_path).close()
    assert [] == list(tmp_path.iterdir())
