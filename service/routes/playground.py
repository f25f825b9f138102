"""`/`: the playground, one static page that calls this service's own interface."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent.parent / "playground"
_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    # No script, style or connection but this service's own, and nobody may frame the page: a key
    # is typed into it.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",  # page and scripts belong together, also after an update
}


@router.get("/")
async def page() -> FileResponse:
    """The first thing that somebody with a browser opens."""
    return FileResponse(_FOLDER / "index.html", headers=_HEADERS)


@router.get("/playground/{name}")
async def part(name: str) -> FileResponse:
    """A script or style sheet of the page."""
    path = _FOLDER / name
    if path.name != name or path.suffix not in _MEDIA_TYPES or not path.is_file():
        raise HTTPException(404)
    return FileResponse(path, headers=_HEADERS, media_type=_MEDIA_TYPES[path.suffix])
