"""What all tests may use."""

import os
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

REPOSITORY = Path(__file__).parent.parent

SHARED_VARIABLE = "STRIPMLP_SHARED"

# A test must not fail as the machine is slow, or as it was the first to import something.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session", autouse=True)
def _no_lines_of_requests() -> None:
    """Services that tests start in this process log no requests, as nobody would read of them."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of test material that is not part of the project: golden checkpoints, photos, odd files."""
    folder = os.environ.get(SHARED_VARIABLE)
    if not folder:
        pytest.skip(f"{SHARED_VARIABLE} does not name the folder of golden checkpoints and pictures")
    return Path(folder)


@pytest.fixture(scope="session")
def bundled_models() -> Path:
    """The model repository that comes with the project."""
    return REPOSITORY / "weights" / "models"
