"""How many files, and so connections, the process may have open."""

import logging
import resource

logger = logging.getLogger(__name__)


def allow_files(wanted: int) -> None:
    """Raise the process's own limit to so many, if the system's lets it; say so if it does not (setrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if wanted <= soft:
        return
    allowed = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        logger.warning(
            "at most %d files may be open here, %d are wanted: raise the limit (ulimit -n) or lower --max-connections",
            allowed, wanted,
        )  # fmt: skip
