"""Fuzz a target with coverage: `python -m tests.fuzz TARGET SECONDS [FOLDER]`, with atheris; `make fuzz` calls it.

Starts from the corpus, writes what it finds new to the folder, and inputs that raise, hang or take too much memory to
`crash-…`, `timeout-…` and `oom-…` in the present one.
"""

import sys
from pathlib import Path
from tempfile import mkdtemp

import atheris

with atheris.instrument_imports(include=["service", "PIL", "python_multipart", "starlette"]):
    from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    """Ends the process, with status 0 if nothing was found."""
    name, seconds, *rest = sys.argv[1:]
    folder = rest[0] if rest else mkdtemp(prefix=f"fuzz-{name}-")
    print(f"new inputs go to {folder}", file=sys.stderr)
    options = [f"-max_total_time={seconds}", "-timeout=60", "-rss_limit_mb=2500", "-max_len=8192"]
    atheris.Setup([sys.argv[0], folder, str(CORPUS / name), *options], TARGETS[name])
    atheris.Fuzz()


main()
