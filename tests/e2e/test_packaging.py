"""What is built holds what is needed: the generated modules, the data files, nothing else."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUBS = {f"paperroute/v1/ordering_service_pb2{end}" for end in (".py", ".pyi", "_grpc.py", "_grpc.pyi")}
DATA = {"services/retrieval/sample_library.jsonl", "services/generation/extractive/glossary_ja.tsv"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build an sdist of the tracked files, and a wheel from that sdist, as an index would be given them."""
    folder = tmp_path_factory.mktemp("build")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        copy = folder / "tree" / name
        if (ROOT / name).is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    _hatchling(folder / "tree", folder / "dist", "sdist")
    with tarfile.open(next((folder / "dist").glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    _hatchling(next((folder / "unpacked").iterdir()), folder / "dist", "wheel")
    return folder / "dist"


def _hatchling(tree: Path, dist: Path, target: str) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(dist), "-t", target]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_stubs_and_data_and_no_tests(built: Path):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())

    assert not (STUBS | DATA) - names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"gateway", "paperroute", "services"}


def test_the_wheel_runs_by_itself(built: Path, tmp_path: Path):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    program = (
        "import sys; sys.path[:0] = [sys.argv[1]]; import gateway, paperroute.v1.survey_pb2 as pb; "
        "print(gateway.__file__, pb.Survey(survey_id='x').survey_id)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "site")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == [str(tmp_path / "site/gateway/__init__.py"), "x"]


def test_the_lock_names_no_address():
    """A lock with addresses would tie every user to one index."""
    assert "://" not in (ROOT / "requirements.lock").read_text()
