"""Files that are there whole or not at all, folders that one process has to itself, and a run's checkpoints by name."""

from __future__ import annotations

import os
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from image_transformer.processes import launch, processes

LAUNCH = ".launch"


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write the file, and its folder where missing; a reader meets the old content or the new one.

    Of several processes that work together, the first one writes. Raises OSError, naming the file, if it cannot be
    written; then nothing is left behind.
    """
    if processes().first:
        replace_file(Path(path), data)


def replace_file(path: Path, data: bytes) -> None:
    """`write_atomically`, by whichever process: for what each machine has of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


class InUseError(OSError):
    """Another process has locked the folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Have `folder` to oneself, made if need be: its file `.lock` says who has it, and is locked until that one ends.

    Raises InUseError, naming the process, while another one has it. Where files cannot be locked, nothing is checked.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(f"{folder} is in use by {_read(file)}") from None
        except OSError:  # a file system without locks
            yield
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            if made and {path.name for path in folder.iterdir()} <= {".lock", LAUNCH}:  # nothing came of it
                for name in (".lock", LAUNCH):
                    (folder / name).unlink(missing_ok=True)
                with suppress(OSError):  # until one that something else lies in
                    for one in made:
                        one.rmdir()


def begin_here(folder: Path) -> None:
    """Keep in `folder` which of torchrun's jobs has begun what is in it."""
    if name := launch():
        write_atomically(folder / LAUNCH, name.encode())


def begun_here(folder: Path) -> bool:
    """Whether the job that this process belongs to has begun it: then torchrun has started the process again."""
    with suppress(OSError):
        return launch() is not None and (folder / LAUNCH).read_text() == launch()
    return False


def user_of(folder: Path) -> str | None:
    """Who has `folder` to itself now, as in "process 17 on host"; None if nobody has, or that cannot be known."""
    try:
        import fcntl

        with (folder / ".lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _read(file)
    except (ImportError, OSError):
        pass
    return None


def _read(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip() or "another process"


def checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    found = {path: re.fullmatch(r"images-(\d+)(-\d+)?", path.name) for path in (run / "checkpoints").glob("images-*")}
    named = {path: (int(name[1]), name[2] or "") for path, name in found.items() if name}  # -2: a second one, once
    return sorted(named, key=lambda path: named[path])
