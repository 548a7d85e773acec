"""The portal's files: its page, the API's, their style and scripts. Nothing else is loaded, nothing inline runs."""

import hashlib
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response

from fabric.errors import Unknown

_FOLDER = Path(__file__).with_name("portal")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    # A VM's words can reach the page as text only: whatever would read markup throws.
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


def add_routes(api: FastAPI) -> None:
    """Into the portal's application."""

    @api.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return _file(request, "index.html")

    @api.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return _file(request, "docs.html")

    @api.get("/portal/{name}", include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        return _file(request, name)


def _file(request: Request, name: str) -> Response:
    # Only what is there, by its plain name: what is asked for never becomes a path.
    path = next((one for one in _FOLDER.iterdir() if one.name == name and one.suffix in _TYPES), None)
    if path is None:
        raise Unknown(f"the portal has no file {name[:80]!r}")
    content = path.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {
        "ETag": tag,
        # Asked about each time, sent again only when it changed: a newer host brings a newer page.
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Content-Security-Policy": _POLICY,
    }
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=_TYPES[path.suffix], headers=headers)
