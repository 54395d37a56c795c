"""Which cluster is joined."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.conftest import REPOSITORY
from tests.service.processes import environment

JOIN = "import ray; from cluster.joining import join; join(None); print(ray.get_runtime_context().gcs_address)"


def test_a_new_cluster_is_started_beside_what_is_left_of_another() -> None:
    """Ray keeps the address of the last one in a file, also after it was killed."""
    with TemporaryDirectory(prefix="ray") as folder:  # pytest's own are too long for names of Ray's sockets
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")

        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", JOIN], cwd=REPOSITORY, check=False, capture_output=True, text=True,
            timeout=120, env=environment(RAY_TMPDIR=folder),
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1].startswith("127.0.0.1:")
