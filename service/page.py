"""The page at `/`: static files, and what browsers may do with them."""

from pathlib import Path

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse

FOLDER = Path(__file__).parent / "static"

FILES = {path.name for path in FOLDER.iterdir() if path.suffix in {".css", ".js"}}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing from elsewhere, no scripts but those of the files (Content Security Policy Level 3)."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-cache",  # the files come with an ETag, and may be others after the next start
}


def build_router() -> APIRouter:
    """The page and its files; there are no others."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page() -> FileResponse:
        return FileResponse(FOLDER / "index.html", headers=HEADERS)

    @router.get("/static/{name}")
    async def file(name: str) -> FileResponse:
        if name not in FILES:
            raise HTTPException(404, "Not Found")
        return FileResponse(FOLDER / name, headers=HEADERS)

    return router
