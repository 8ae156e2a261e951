"""The page, the documentation page and their files, read once at the start; they load nothing from any other host."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Response

from ner_service.serving.problems import NotFoundError

_FOLDER = Path(__file__).parent / "page"
# Not asked of the system, whose table may lack one; a browser runs no script of another type.
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def build_pages() -> APIRouter:
    """Routes of the pages; none of them is part of the API."""
    router = APIRouter(include_in_schema=False)
    files = {path.name: path.read_bytes() for path in _FOLDER.iterdir() if path.is_file()}

    def respond(name: str) -> Response:
        if name not in files:
            raise NotFoundError("no such file")
        return Response(files[name], media_type=_MEDIA_TYPES[Path(name).suffix], headers=_HEADERS)

    @router.get("/")
    async def page() -> Response:
        return respond("index.html")

    @router.get("/docs")
    async def docs() -> Response:
        return respond("docs.html")

    @router.get("/page/{name}")
    async def file(name: str) -> Response:
        return respond(name)

    return router
