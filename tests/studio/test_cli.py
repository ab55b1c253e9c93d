"""Laws of the command line and of the start: every mistake is one line and exit status 1."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from studio.catalogue.generator import generate
from studio.cli import main

ROOT = Path(__file__).parents[2]
SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    for name in ("STUDIO_ENV", "DATABASE_URL", "SECRET_KEY", "PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STUDIO_DATA", str(tmp_path))


def one_line(capsys) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert 1 == len(lines), lines
    return lines[0]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "studio: DATABASE_URL is not set"),
        (
            {"DATABASE_URL": "postgres://me:hidden@127.0.0.1:1/x", "SECRET_KEY": SECRET},
            "the database does not answer at",
        ),
        ({"DATABASE_URL": "postgres://me@127.0.0.1/x"}, "studio: SECRET_KEY is not set"),
        ({"DATABASE_URL": "nonsense", "SECRET_KEY": SECRET}, "studio: DATABASE_URL is no database URL"),
        (
            {"STUDIO_ENV": "development", "DATABASE_URL": "sqlite:////nowhere/x"},
            "the database does not answer at",
        ),
        ({"STUDIO_ENV": "development", "STUDIO_DATA": "/dev/null/x"}, "studio: STUDIO_DATA cannot be used"),
        ({"STUDIO_ENV": "development", "PORT": "x"}, "studio: the port must be a number"),
        ({"STUDIO_ENV": "other"}, "studio: STUDIO_ENV must be one of"),
    ],
)
def test_a_wrong_setting_is_one_line(monkeypatch, capsys, settings, complaint):
    """What is wrong is said without a traceback and without a password."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert 1 == main(["serve", *(["--port", "0"] if "PORT" not in settings else [])])
    line = one_line(capsys)
    assert complaint in line
    assert "hidden" not in line


def _a_folder(place):
    (place / "secret-key").mkdir()


def _an_empty_key(place):
    (place / "secret-key").touch()


def _no_text(place):
    (place / "secret-key").write_bytes(b"\xff" * 64)


def _no_database(place):
    (place / "studio.sqlite3").write_text("no database, but many a word " * 9)


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (_a_folder, "the key for sessions cannot be kept: Is a directory"),
        (_an_empty_key, "the key for sessions is damaged: delete"),
        (_no_text, "the key for sessions cannot be kept: it is no text"),
        (_no_database, "the database refuses: file is not a database"),
    ],
)
def test_a_damaged_data_folder_is_one_line(monkeypatch, capsys, tmp_path, harm, complaint):
    """Whatever lies where the studio keeps its own, the start ends with what it is."""
    harm(tmp_path)
    monkeypatch.setenv("STUDIO_ENV", "development")
    assert 1 == main(["serve", "--port", "0"])
    assert f"studio: {complaint}" in one_line(capsys)


def test_a_taken_port_is_one_line(monkeypatch, capsys):
    """The line says how to choose another."""
    monkeypatch.setenv("STUDIO_ENV", "development")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert 1 == main(["serve", "--port", str(port)])
    assert (
        f"studio: cannot listen on 127.0.0.1:{port}: Address already in use; choose another with PORT="
        == one_line(capsys)
    )


def test_production_does_not_migrate_by_itself(monkeypatch, capsys, tmp_path):
    """It refuses an old schema and names the command, which then helps."""
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'x.sqlite3'}")
    monkeypatch.setenv("SECRET_KEY", SECRET)
    assert 1 == main(["serve", "--port", "0"])
    assert "run python -m studio db upgrade" in one_line(capsys)
    monkeypatch.setenv("STUDIO_PASSWORD", "long enough for all")
    assert [0, 0] == [main(["db", "upgrade"]), main(["create-admin", "ann"])]
    assert 1 == main(["create-admin", "ann"])
    assert "there is a user 'ann' already" in one_line(capsys)


def test_a_password_that_nobody_can_enter_is_asked_of_the_environment(monkeypatch, capsys):
    """Without a terminal, as in a container, the refusal names the variable."""

    def unattended(_prompt):
        raise EOFError

    monkeypatch.setenv("STUDIO_ENV", "development")
    monkeypatch.delenv("STUDIO_PASSWORD", raising=False)
    monkeypatch.setattr("getpass.getpass", unattended)
    assert 1 == main(["create-admin", "ann"])
    assert "set STUDIO_PASSWORD" in one_line(capsys)


@pytest.mark.parametrize("name", ["", " ann", "a" * 41, "a\tb"])
def test_nobody_gets_a_name_to_stay_outside_with(monkeypatch, capsys, name):
    """A name that the login page cannot take is refused before anybody bears it."""
    monkeypatch.setenv("STUDIO_ENV", "development")
    monkeypatch.setenv("STUDIO_PASSWORD", "correct horse battery")
    assert 1 == main(["create-admin", name])
    assert "studio: a name has" in one_line(capsys)


#: Another process keeps what it has read, and hears of nothing without Redis.
LATER = "a studio that is running shows them within 5 minutes; with REDIS_URL, at once\n"


def test_import_tells_what_it_did(monkeypatch, capsys, tmp_path):
    """First all are new, then all are unchanged; a dry run says what would happen."""
    monkeypatch.setenv("STUDIO_ENV", "development")
    rows = [f'"{p.brand}","{p.range}","{p.name}",{p.code},{p.hex}' for p in generate(50)]
    file = tmp_path / "paints.csv"
    file.write_text("\n".join(["brand,range,name,code,hex", *rows]), encoding="utf-8")
    for arguments, told in (
        (["--dry-run"], "50 rows would be imported: 50 added, 0 changed, 0 unchanged\n"),
        ([], f"50 rows imported: 50 added, 0 changed, 0 unchanged\n{LATER}"),
        ([], "50 rows imported: 0 added, 0 changed, 50 unchanged\n"),
    ):
        assert 0 == main(["import", str(file), *arguments])
        assert told == capsys.readouterr().out


def test_import_names_every_bad_row(monkeypatch, capsys, tmp_path):
    """Each on a line of its own, and a last line that says that nothing was imported."""
    monkeypatch.setenv("STUDIO_ENV", "development")
    file = tmp_path / "paints.csv"
    file.write_text("brand,range,name,code,hex\nA,,N,,#112233\nA,,N,,x\n,,N,,#112233\n", encoding="utf-8")
    assert 1 == main(["import", str(file)])
    lines = capsys.readouterr().err.splitlines()
    assert ["line 3", "line 4"] == [line.partition(":")[0] for line in lines[:2]]
    assert "studio: 2 of 3 rows are bad: nothing was imported" == lines[2]
    file.write_text("brand,range,name,code,hex\nA,,N,,#112233\nA,,N,,x\n", encoding="utf-8")
    assert 1 == main(["import", str(file)])
    assert "studio: 1 of 2 rows is bad: nothing was imported" == capsys.readouterr().err.splitlines()[1]
    assert 1 == main(["import", str(tmp_path / "none.csv")])
    assert "No such file or directory" in one_line(capsys)


@pytest.mark.parametrize(
    "data", [b"", b"# a page\n\nof text\n", b"brand;range;name;code;hex\nA;;N;;x\n", b"a\nb\xff"]
)
def test_import_counts_no_rows_where_there_are_none(monkeypatch, capsys, tmp_path, data):
    """A file that is no catalogue at all has no bad rows: it cannot be read, and the first line says why."""
    monkeypatch.setenv("STUDIO_ENV", "development")
    file = tmp_path / "paints.csv"
    file.write_bytes(data)
    assert 1 == main(["import", str(file)])
    why, verdict = capsys.readouterr().err.splitlines()
    assert why.startswith("line ")
    assert "studio: the file cannot be read: nothing was imported" == verdict


#: Seconds; a first start takes two or three of them where nothing else runs.
PATIENCE = 90.0


@contextlib.contextmanager
def served(tmp_path, **environment):
    """A studio in a process of its own, on a port that it chooses; yields it and its address."""
    settings = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT / 'examples'}:{ROOT / 'src'}",
        "STUDIO_DATA": str(tmp_path),
    }
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "studio", "serve", "--port", "0"],
            env=settings | {"STUDIO_ENV": "development"} | environment,
            stdout=out,
            stderr=out,
        )
    try:
        yield process, address(process, tmp_path / "out")
    finally:
        process.kill()
        process.wait()


def address(process: subprocess.Popen[bytes], out: Path) -> str:
    """Wait until a studio has said where it is: from then on its port is taken."""
    due = time.monotonic() + PATIENCE
    while not (said := re.search(r"^studio: (http://\S+)\n", out.read_text(), re.MULTILINE)):
        assert process.poll() is None, out.read_text()
        assert time.monotonic() < due, "the studio does not start"
        time.sleep(0.05)
    return said[1]


def fetched(url: str) -> tuple[int, str]:
    """Open a page of a process that may still be starting."""
    due = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.URLError:
            assert time.monotonic() < due, "the studio does not serve"
            time.sleep(0.05)


@pytest.mark.timeout(300)
def test_a_first_start_serves_a_catalogue(tmp_path):
    """A studio of 3,000 paints serves without any setting, prints its password once, and ends quietly when told to."""
    with served(tmp_path) as (process, url):
        status, html = fetched(f"{url}/paints")
        assert (200, True) == (status, "3\u202f000 paints" in html)
        assert 200 == fetched(f"{url}/health/ready")[0]
        with urllib.request.urlopen(f"{url}/swatches/1.webp", timeout=PATIENCE) as answer:
            assert 200 == answer.status
        left_over = tmp_path / "swatches" / ".interrupted.part"
        left_over.touch()
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(PATIENCE)
    assert not left_over.exists(), "the image store was not closed at exit"
    first = (tmp_path / "out").read_text()
    assert re.fullmatch(
        r"first start: log in as admin with the password \S{16} \(shown only now\)\nstudio: http://\S+\n",
        first,
    )
    with served(tmp_path) as (process, url):
        fetched(f"{url}/health/live")
        process.send_signal(signal.SIGINT)
        assert 0 == process.wait(PATIENCE)
    assert re.fullmatch(r"studio: http://\S+\n", (tmp_path / "out").read_text())
