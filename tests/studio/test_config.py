"""Laws of the configuration: production guesses nothing, development needs nothing."""

import stat

import pytest

from studio.config import DevelopmentConfig, ProductionConfig, load_config
from studio.problems import StartupError

STRONG = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def production(tmp_path):
    return {"DATABASE_URL": "postgres://me@db/studio", "SECRET_KEY": STRONG, "STUDIO_DATA": str(tmp_path)}


@pytest.fixture
def development(tmp_path):
    return {"STUDIO_ENV": "development", "STUDIO_DATA": str(tmp_path)}


def test_production_unless_told(production):
    """Without STUDIO_ENV the configuration is production's, with its cookies for TLS alone and no debugger."""
    config = load_config(production)
    flask = config.as_flask()
    assert type(config) is ProductionConfig
    assert (True, True, "Lax", False) == (
        flask["SESSION_COOKIE_SECURE"],
        flask["SESSION_COOKIE_HTTPONLY"],
        flask["SESSION_COOKIE_SAMESITE"],
        flask["DEBUG"],
    )
    assert "__Host-studio" == flask["SESSION_COOKIE_NAME"]
    assert config.demo_paints == 0


@pytest.mark.parametrize("missing", ["DATABASE_URL", "SECRET_KEY"])
@pytest.mark.parametrize("empty", [None, "", "  "])
def test_production_names_what_is_missing(production, missing, empty):
    """A setting that is missing or empty is named in one line."""
    del production[missing]
    if empty is not None:
        production[missing] = empty
    with pytest.raises(StartupError, match=f"^{missing} is not set[^\n]*$"):
        load_config(production)


@pytest.mark.parametrize("weak", ["dev", "change-me", "secret" * 10, "a" * 64, STRONG[:31]])
def test_production_refuses_a_weak_secret(production, weak):
    """A key that can be guessed is refused, and not repeated."""
    production["SECRET_KEY"] = weak
    with pytest.raises(StartupError, match="SECRET_KEY is too easy to guess") as refusal:
        load_config(production)
    assert weak not in str(refusal.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_one_driver_for_every_spelling(production, scheme):
    """Every spelling of a PostgreSQL address means psycopg 3, and the password stays in it."""
    production["DATABASE_URL"] = f"{scheme}://me:p%40ss@db:5433/studio"
    assert "postgresql+psycopg://me:p%40ss@db:5433/studio" == load_config(production).database_url


@pytest.mark.parametrize("wrong", ["nonsense", "mysql://db/studio", "http://db/studio"])
def test_other_databases_are_refused(production, wrong):
    """What is no address of a database that we know is refused by name."""
    production["DATABASE_URL"] = wrong
    with pytest.raises(StartupError, match="DATABASE_URL"):
        load_config(production)


def test_the_secret_does_not_show(production):
    """The key stays out of what a log might print."""
    assert STRONG not in repr(load_config(production))


def test_development_keeps_its_key(development, tmp_path):
    """Development works without settings, and two starts share a key that only the owner can read."""
    first, second = load_config(development), load_config(development)
    assert type(first) is DevelopmentConfig
    assert first.secret_key == second.secret_key
    assert 0o600 == stat.S_IMODE((tmp_path / "secret-key").stat().st_mode)
    assert first.database_url.startswith("sqlite:///")


def test_an_unknown_environment_is_refused(development):
    """A typing mistake does not fall back to anything."""
    with pytest.raises(StartupError, match="STUDIO_ENV must be one of development, production"):
        load_config(development | {"STUDIO_ENV": "dev"})


def test_numbers_are_numbers(development):
    """A setting that has to be a number says so."""
    with pytest.raises(StartupError, match="STUDIO_DEMO_PAINTS must be a whole number, not '-1'"):
        load_config(development | {"STUDIO_DEMO_PAINTS": "-1"})


def test_redis_is_optional_and_has_to_be_one(development, production):
    """Without an address every process has a cache of its own; another server's address is refused, and not repeated."""
    assert load_config(development | {"REDIS_URL": " "}).redis_url is None
    for config in (development, production):
        assert (
            "rediss://me:pw@cache/1"
            == load_config(config | {"REDIS_URL": "rediss://me:pw@cache/1"}).redis_url
        )
        with pytest.raises(StartupError, match="REDIS_URL is no URL of a Redis server") as refusal:
            load_config(config | {"REDIS_URL": "http://me:pw@cache"})
        assert "pw" not in str(refusal.value)
