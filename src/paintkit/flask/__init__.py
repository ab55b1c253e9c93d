"""paintkit in a Flask app: health, metrics, commands."""

from paintkit._extras import Extra

with Extra("flask"):
    from paintkit.flask.extension import PaintKit

__all__ = ["PaintKit"]
