"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from eclab.errors import CheckpointError


def need_folder(folder: Path) -> None:
    """Make the folder and see that it can be written to, before hours of training go into it.

    Raises:
        CheckpointError: it cannot.
    """
    with whole_file(folder / ".eclab") as temporary:
        temporary.touch()
    (folder / ".eclab").unlink()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name to write to; it becomes `path` when the block is done, and is removed when it fails.

    Raises:
        CheckpointError: the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # what the user's umask gives; safetensors writes for the owner alone
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CheckpointError(
            f"{path} cannot be written ({reason})",
            fix="choose a folder that is yours and has room",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
