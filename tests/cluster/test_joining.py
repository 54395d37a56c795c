"""Which cluster is joined."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.service.processes import environment

JOIN = "import ray; from cluster.joining import join; join(None); print(ray.get_runtime_context().gcs_address)"


def test_a_new_cluster_is_started_beside_what_is_left_of_another(tmp_path: Path) -> None:
    """Ray keeps the address of the last one in a file, also after it was killed."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", JOIN], cwd=REPOSITORY, check=False, capture_output=True, text=True,
        timeout=120, env=environment(RAY_TMPDIR=str(tmp_path)),
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1].startswith("127.0.0.1:")
