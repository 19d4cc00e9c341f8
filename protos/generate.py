"""Writes the generated protobuf modules beside their sources: ``python -m protos.generate [--check]``.

Guarantees: with ``--check`` nothing is written, and the exit code says whether the committed files are what the
generator writes. The generator is pinned to the line whose output runs under protobuf 6 and 7; a newer one would raise
the least protobuf that an installation needs, so it is refused.
Leaves to others: the methods' handlers and stubs (``coordinator.daemon.service``, ``participant.link.channel``), which
read the services' descriptors and pass bytes to the strict codec: there are no generated ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

SOURCES = ("protos/round.proto", "protos/federation.proto")
GENERATOR_LINE = "1.76"  # grpcio-tools: protoc 31, whose output protobuf 6.31 and everything newer accepts
SUFFIXES = ("_pb2.py", "_pb2.pyi")


def generated_names() -> tuple[str, ...]:
    """Return the names of the files that are written, relative to the root."""
    return tuple(source.removesuffix(".proto") + suffix for source in SOURCES for suffix in SUFFIXES)


def generate(root: Path, output: Path) -> None:
    """Run protoc with mypy-protobuf over all sources.

    Raises:
        RuntimeError: another line of grpcio-tools is installed, or protoc refused a source.
    """
    installed = version("grpcio-tools")
    if not installed.startswith(GENERATOR_LINE + "."):
        raise RuntimeError(f"grpcio-tools {installed} is installed; the generated files come from {GENERATOR_LINE}")
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root}", f"--python_out={output}"]
    finished = subprocess.run(  # noqa: S603  # fixed arguments; the plug-in is the one beside this interpreter
        [*command, f"--mypy_out=quiet:{output}", *SOURCES], cwd=root, env=environment, check=False
    )
    if finished.returncode:
        raise RuntimeError("protoc refused a source")


def main(arguments: list[str]) -> int:
    """Write the files, or with ``--check`` compare them; return the exit code."""
    root = Path(__file__).resolve().parent.parent
    if arguments != ["--check"]:
        generate(root, root)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        generate(root, Path(scratch))
        stale = [name for name in generated_names() if (root / name).read_bytes() != Path(scratch, name).read_bytes()]
    for name in stale:
        print(f"{name} is not what the generator writes; run `python -m protos.generate`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
