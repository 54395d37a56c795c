"""Whether a page shows what is printed."""

import math
import re

ELISION = "…"

NUMBER = r"-?\d+\.\d+(?:e[+-]?\d+)?"

TOLERANCE = 1e-3
"""Of numbers with a decimal point; processors round differently."""


def agrees(shown: str, printed: str) -> bool:
    """Whether `printed` is what is shown. White space does not count, so that long lines can be broken; `…` stands for
    anything."""
    wanted = "".join(shown.split())
    pieces = re.split(f"({NUMBER}|{ELISION})", wanted)
    # Split by one group: every second piece is what the group found.
    pattern = "".join(
        re.escape(piece) if place % 2 == 0 else ".*?" if piece == ELISION else f"({NUMBER})"
        for place, piece in enumerate(pieces)
    )
    found = re.fullmatch(pattern, "".join(printed.split()))
    numbers = [piece for piece in pieces[1::2] if piece != ELISION]
    return found is not None and all(
        math.isclose(float(number), float(each), rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        for number, each in zip(numbers, found.groups(), strict=True)
    )
