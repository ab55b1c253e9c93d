"""What every answer says to the browser about itself."""

from __future__ import annotations

import secrets

from flask import Flask, Response, g, request

__all__ = ["register_headers"]

_FIXED = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "X-Frame-Options": "DENY",
}

#: Bootstrap's style sheet holds small pictures as `data:`; our own few rules of colour carry the nonce.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data:;"
    " font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HALF_A_YEAR = 180 * 24 * 3600


def register_headers(app: Flask) -> None:
    """Give each request an id and a nonce, and each answer its headers."""

    @app.before_request
    def begin() -> None:
        g.request_id = secrets.token_hex(8)
        g.nonce = secrets.token_urlsafe(16)

    @app.after_request
    def finish(response: Response) -> Response:
        response.headers.update(_FIXED)
        response.headers["Content-Security-Policy"] = _POLICY.format(nonce=g.get("nonce", ""))
        response.headers["X-Request-ID"] = g.get("request_id", "")
        if request.is_secure:
            response.headers["Strict-Transport-Security"] = f"max-age={_HALF_A_YEAR}"
        if response.mimetype == "text/html":
            response.headers["Cache-Control"] = "private, no-cache"
            response.vary.add("Cookie")
        return response
