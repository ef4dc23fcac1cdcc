"""Makes the gRPC modules from `protos/` whenever the package is built or installed."""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
PROTOS = ROOT / "protos"


def generate() -> list[Path]:
    """Write messages, stubs and their types beside the .proto files; return what was written.

    Raises:
        RuntimeError: protoc refused a file; its own message stands on stderr.
    """
    from grpc_tools import protoc

    well_known = Path(protoc.__file__).parent / "_proto"
    scripts = Path(sys.executable).parent
    sources = sorted(PROTOS.glob("paperroute/v1/*.proto"))
    arguments = [
        "protoc",
        f"-I{PROTOS}",
        f"-I{well_known}",
        f"--python_out={PROTOS}",
        f"--grpc_python_out={PROTOS}",
        f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
        f"--mypy_out={PROTOS}",
        f"--mypy_grpc_out={PROTOS}",
        *map(str, sources),
    ]
    if protoc.main(arguments) != 0:
        message = "protoc could not read the .proto files"
        raise RuntimeError(message)
    return sorted(PROTOS.glob("paperroute/v1/*_pb2*"))


class GenerateStubs(BuildHookInterface):  # type: ignore[type-arg]  # the config type is of no use here
    """Runs `generate` before files are collected; works for wheel, sdist and editable installs."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generate into the tree; `artifacts` in pyproject.toml puts the result into the wheel."""
        generate()


if __name__ == "__main__":
    for path in generate():
        print(path.relative_to(ROOT))
