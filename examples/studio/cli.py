"""The command line: every mistake is one line on the standard error stream and exit status 1."""

from __future__ import annotations

import argparse
import getpass
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from alembic import command
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError, IntegrityError

from studio import database
from studio.config import Config, load_config
from studio.problems import ImportConflictError, StartupError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(load_config(), options) or 0)
    except (StartupError, ImportConflictError, CommandError) as error:
        return _refused(str(error))
    except DBAPIError as error:
        return _refused(f"the database refuses: {str(error.orig).strip().splitlines()[0]}")
    except KeyboardInterrupt:
        return 130


def _refused(reason: str) -> int:
    sys.stderr.write(f"studio: {reason}\n")
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="studio", description="The Paint and Print Studio.")
    commands = parser.add_subparsers(required=True, metavar="command")
    serve = commands.add_parser("serve", help="serve the studio")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", default=os.environ.get("PORT", "5000"))
    serve.set_defaults(run=_serve)
    import_ = commands.add_parser("import", help="import a CSV file of paints")
    import_.add_argument("file", type=Path)
    import_.add_argument("--dry-run", action="store_true", help="say what would happen, and change nothing")
    import_.set_defaults(run=_import)
    admin = commands.add_parser(
        "create-admin", help="add an administrator (password: STUDIO_PASSWORD, or asked for)"
    )
    admin.add_argument("name")
    admin.set_defaults(run=_create_admin)
    schema = commands.add_parser("db", help="look after the schema: upgrade, downgrade, current, history")
    schema.add_argument("action", choices=("upgrade", "downgrade", "current", "history"))
    schema.add_argument("revision", nargs="?")
    schema.set_defaults(run=_schema)
    return parser


def _serve(config: Config, options: argparse.Namespace) -> None:
    from studio.serving import serve  # gunicorn is needed here alone

    if not (options.port.isdecimal() and int(options.port) <= 65535):
        raise StartupError(f"the port must be a number from 0 to 65535, not {options.port!r}")
    serve(config, options.host, int(options.port))


def _import(config: Config, options: argparse.Namespace) -> int:
    from studio.starting import opened

    try:
        data = options.file.read_bytes()
    except OSError as error:
        raise StartupError(f"cannot read {options.file}: {error.strerror}") from None
    with opened(config) as services:
        report = services.importer.check(data) if options.dry_run else services.importer.apply(data)
    for problem in report.problems:
        sys.stderr.write(f"line {problem.line}: {problem.reason}\n")
    if report.problems:
        raise StartupError(report.refusal)
    told = "would be imported" if options.dry_run else "imported"
    counts = f"{report.added} added, {report.changed} changed, {report.unchanged} unchanged"
    sys.stdout.write(f"{report.rows} {'row' if report.rows == 1 else 'rows'} {told}: {counts}\n")
    if report.applied and report.added + report.changed and config.redis_url is None:
        sys.stdout.write("a studio that is running shows them within 5 minutes; with REDIS_URL, at once\n")
    return 0


def _create_admin(config: Config, options: argparse.Namespace) -> None:
    from studio.auth.passwords import SHORTEST
    from studio.auth.users import LONGEST_NAME
    from studio.catalogue.records import clean, has_control
    from studio.starting import make_user, opened

    if options.name != clean(options.name) or not 1 <= len(options.name) <= LONGEST_NAME:
        raise StartupError(f"a name has 1 to {LONGEST_NAME} characters, and no space around it")
    if has_control(options.name):
        raise StartupError("a name has no control characters")
    password = os.environ.get("STUDIO_PASSWORD") or _asked_for()
    if len(password) < SHORTEST:
        raise StartupError(f"a password has at least {SHORTEST} characters")
    with opened(config) as services:
        try:
            make_user(services, options.name, "admin", password)
        except IntegrityError:
            raise StartupError(f"there is a user {options.name!r} already") from None


def _asked_for() -> str:
    try:
        return getpass.getpass("password: ")
    except EOFError:
        raise StartupError("nobody is here to enter a password: set STUDIO_PASSWORD") from None


def _schema(config: Config, options: argparse.Namespace) -> None:
    database.reach(config.database_url)
    alembic = database.alembic_config(config.database_url)
    if options.action == "upgrade":
        command.upgrade(alembic, options.revision or "head")
    elif options.action == "downgrade":
        if not options.revision:
            raise StartupError("say how far: python -m studio db downgrade -1")
        command.downgrade(alembic, options.revision)
    elif options.action == "current":
        command.current(alembic)
    else:
        command.history(alembic)
