import os
import subprocess
import sys
from pathlib import Path

import pytest

from studio.config import DevelopmentConfig, ProductionConfig, load_config
from studio.problems import StartupError

SECRET = "0123456789abcdef" * 4


def production(tmp_path: Path, **settings: str) -> dict[str, str]:
    """What a production environment says, changed by `settings`; an empty one is as good as none."""
    return {
        "STUDIO_ENV": "production",
        "DATABASE_URL": "postgresql://localhost/studio",
        "SECRET_KEY": SECRET,
        "STUDIO_DATA": str(tmp_path),
    } | settings


@pytest.mark.parametrize("name", ["SECRET_KEY", "DATABASE_URL"])
@pytest.mark.parametrize("value", [None, "", "  "], ids=["unset", "empty", "blank"])
def test_a_missing_setting_stops_the_start(tmp_path: Path, name: str, value: str | None) -> None:
    """Row 52: production without a key or a database says which is missing before it serves anybody."""
    environ = production(tmp_path)
    del environ[name]
    if value is not None:
        environ[name] = value

    with pytest.raises(StartupError, match=f"{name} is not set"):
        load_config(environ)


@pytest.mark.parametrize("secret", ["dev", "x" * 64], ids=["short", "one letter"])
def test_a_secret_that_can_be_guessed_is_none(tmp_path: Path, secret: str) -> None:
    """Row 52: neither a default nor a placeholder passes for a key."""
    with pytest.raises(StartupError, match="SECRET_KEY is too easy to guess"):
        load_config(production(tmp_path, SECRET_KEY=secret))


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_the_url_that_hosts_hand_out_is_understood(tmp_path: Path, scheme: str) -> None:
    """Row 52: `postgres://` names no dialect of SQLAlchemy; the driver that is installed is put in its place."""
    config = load_config(production(tmp_path, DATABASE_URL=f"{scheme}://studio:pw@host:5433/paints"))

    assert "postgresql+psycopg://studio:pw@host:5433/paints" == config.database_url


def test_production_is_what_nobody_asked_for(tmp_path: Path) -> None:
    """Row 53: without the variable the studio is in production, with the debugger off; development has to be named."""
    unnamed = production(tmp_path)
    del unnamed["STUDIO_ENV"]

    assert isinstance(load_config(unnamed), ProductionConfig)
    development = load_config({"STUDIO_ENV": "development", "STUDIO_DATA": str(tmp_path)})
    assert isinstance(development, DevelopmentConfig)
    assert [False, False] == [config.as_flask()["DEBUG"] for config in (load_config(unnamed), development)]
    with pytest.raises(StartupError, match="STUDIO_ENV must be one of"):
        load_config(production(tmp_path, STUDIO_ENV="produktion"))


def test_the_environment_is_read_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 53: what is set after the module was imported counts."""
    for name, value in production(tmp_path, DATABASE_URL="postgresql://later/studio").items():
        monkeypatch.setenv(name, value)

    assert load_config().database_url.endswith("//later/studio")


def test_the_module_can_be_imported_in_an_empty_environment() -> None:
    """Row 53: importing it reads nothing and needs nothing."""
    path = os.pathsep.join([str(Path(__file__).parents[2] / "examples"), *sys.path])

    done = subprocess.run(
        [sys.executable, "-c", "import studio.config"],
        env={"PYTHONPATH": path},
        capture_output=True,
        check=False,
        text=True,
    )

    assert (0, "") == (done.returncode, done.stderr)
