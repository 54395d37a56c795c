"""The project's pages, and the snippets in them.

A snippet is a fenced block of a language in `RUN`. A block of `text` or `json` right after it is what it prints. A
comment before it names the service that it asks, if that is not the usual one: `<!-- service: busy -->`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.conftest import REPOSITORY

PAGES = (
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    REPOSITORY / "docker" / "README.md",
    REPOSITORY / "benchmarks" / "README.md",
    REPOSITORY / "weights" / "README.md",
)

RUN = ("bash", "python", "js")
SHOWN = ("text", "json")

USUAL = "usual"


@dataclass(frozen=True)
class Snippet:
    """What a reader may run."""

    page: Path
    line: int
    """Of its first line in the page, from 1."""
    language: str
    source: str
    service: str
    """The one that it asks, by its name in `tests.docs.services`."""
    shown: str | None
    """What the page says that it prints."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def blocks(page: Path) -> list[Token]:
    """What stands between a page's headings and paragraphs: fenced and indented blocks and comments, in order."""
    kinds = ("fence", "code_block", "html_block", "paragraph_open", "heading_open", "table_open")
    return [token for token in MarkdownIt().enable("table").parse(page.read_text("utf-8")) if token.type in kinds]


def snippets(page: Path) -> Iterator[Snippet]:
    """Every snippet of a page."""
    tokens = blocks(page)
    for before, token, after in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
        if token.info in RUN:
            assert token.map  # blocks have one
            named = re.fullmatch(r"<!-- service: (\w+) -->\n", before.content) if before else None
            yield Snippet(
                page=page,
                line=token.map[0] + 2,
                language=token.info,
                source=token.content,
                service=named[1] if named else USUAL,
                shown=after.content if after and after.info in SHOWN else None,
            )
