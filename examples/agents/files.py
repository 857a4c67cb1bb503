"""An agent that reads files below one directory and writes files into another, and touches nothing else."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from examples.agents.starting import main, refusing
from roster import Code, Node, RemoteError

INPUT = "EXAMPLES_INPUT"  # where it reads; without it the examples' own input
OUTPUT = "EXAMPLES_OUTPUT"  # where it writes; without it `output` in the current directory
MAX_BYTES = 256 * 1024
MAX_FILES = 500


def make(passport: str | os.PathLike[str]) -> Node:
    """Return the node of a passport."""
    node = Node.load(passport)
    source = Path(os.environ.get(INPUT) or Path(__file__).parents[1] / "input").resolve()
    target = Path(os.environ.get(OUTPUT) or "output").resolve()

    @node.capability("list_files")
    def list_files(pattern: str) -> dict[str, Any]:
        with refusing():
            _relative(pattern)
            found = [path for path in source.glob(pattern) if path.is_file() and _inside(source, path)]
            if len(found) > MAX_FILES:
                raise ValueError(f"{pattern} names {len(found)} files: at most {MAX_FILES} are listed")
        return {"paths": sorted(path.relative_to(source).as_posix() for path in found)}

    @node.capability("read_file")
    def read_file(path: str) -> dict[str, Any]:
        with refusing():
            file = source / _relative(path)
            if not _inside(source, file):
                raise ValueError(f"{path} leads out of the directory of the input")
            try:
                with file.open("rb") as opened:
                    content = opened.read(MAX_BYTES + 1)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                raise RemoteError(f"there is no file {path} in the input", code=Code.NOT_FOUND) from None
            except PermissionError:
                raise RemoteError(f"{path} may not be read", code=Code.PERMISSION_DENIED) from None
            if len(content) > MAX_BYTES:
                raise ValueError(f"{path} is larger than {MAX_BYTES} bytes")
            try:
                text = content.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} is no text in UTF-8: byte {error.start} is wrong") from None
        return {"path": path, "text": text, "bytes": len(content)}

    @node.capability("write_file")
    def write_file(path: str, text: str) -> dict[str, Any]:
        with refusing():
            file = target / _relative(path)
            content = text.encode("utf-8")
            if len(content) > MAX_BYTES:
                raise ValueError(f"{path} would be larger than {MAX_BYTES} bytes")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if not _inside(target, file):
                raise RemoteError(f"{path} leads out of the output", code=Code.INVALID_ARGUMENT)
            _replace(file, content)
        except OSError as error:  # full, read-only: another node, or a later try, may do better
            reason = error.strerror or type(error).__name__
            raise RemoteError(
                f"cannot write {path}: {reason}", code=Code.UNAVAILABLE, retryable=True
            ) from error
        return {"path": str(file), "bytes": len(content)}

    return node


def _relative(path: str) -> PurePosixPath:
    pure = PurePosixPath(path)
    if not path or "\0" in path or pure.is_absolute() or ".." in pure.parts:
        raise ValueError(f"expected a path below the agent's directory, found {path[:100]!r}")
    return pure


def _inside(directory: Path, path: Path) -> bool:
    """Whether a path is inside once its links are followed."""
    return path.resolve().is_relative_to(directory)


def _replace(file: Path, content: bytes) -> None:
    """Write a file whole or not at all: readers never see a part, and doing it twice does no harm."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    main(make, "files-001.yaml")
