"""Files are written whole or not at all, and several files of a folder in one step.

They are written to a hidden folder inside their own first, so on the same disk. One rename, to
READY, makes them its new content; then they are moved into place. Who comes after a process that
was killed between the moves finishes them (`finish`), or reads where they still are (`latest`).
What a killed process left before that rename is swept out by the next one (`sweep_out`): a lock
says whether its writer still lives.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError, OutOfResources, SinkscopeError

try:
    import fcntl
except ImportError:  # this system has no such locks: nothing is swept out
    fcntl = None  # type: ignore[assignment]

PART = ".part-"  # how the name of an unfinished file or folder begins
READY = ".ready"  # the folder of files that are complete and only wait to be moved
GONE = ".gone"  # behind the name of a file that goes when the others come
PROBE = 1 << 22  # bytes that must fit on a disk before anything is computed for it
written: list[Path] = []  # folders that this process has put something into


def expanded(path: str | Path) -> Path:
    """A path with the home folder in the place of its ~. Raises InputError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{path}: no such home folder here; write it out.") from None


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object that a file of whoever holds. Raises InputError where it holds none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read as JSON ({error}).") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} is not a JSON object.")
    return content


def prove_writable(folder: Path) -> None:
    """See that a folder can be made and written, and that its disk is not full; leave no trace.

    What a killed process left in it is dealt with. Raises InputError or OutOfResources.
    """
    folder = expanded(folder)
    with disk_errors(folder):
        made = _make(folder)
        try:
            _tidy(folder)
            with tempfile.TemporaryFile(prefix=PART, dir=folder) as probe:
                probe.write(b"\0" * PROBE)
                probe.flush()
                os.fsync(probe.fileno())
        finally:
            _unmake(made)


def write_folder(
    folder: Path, files: Mapping[str, Callable[[Path], Any]], gone: Iterable[str] = ()
) -> Path:
    """Write files (name -> function of a path) into `folder`, all or none; others are left alone.

    gone  files of an earlier result that have no place beside the new ones
    Raises InputError (also for a name that is a path) or OutOfResources.
    """
    for name in files:
        if Path(name).name != name or name.startswith(".") or "\0" in name:
            raise InputError(f"{name!r} is no name of a file in {folder}.")

    def fill(staging: Path) -> None:
        for name, write in files.items():
            write(staging / name)

    return fill_folder(folder, fill, gone)


def fill_folder(folder: Path, fill: Callable[[Path], Any], gone: Iterable[str] = ()) -> Path:
    """The same for a function that writes any files into the folder that it is given."""
    folder = expanded(folder)
    with disk_errors(folder):
        made = _make(folder)
        try:
            _tidy(folder)
            with _staging(folder) as staging:
                fill(staging)
                names = {file.name for file in staging.iterdir()}
                for name in names:
                    _sync(staging / name)
                for name in set(gone) - names:
                    (staging / f"{name}{GONE}").touch()
                _commit(staging, folder)
        except BaseException:
            _unmake(made)
            raise
    written.append(folder)
    return folder


def _commit(staging: Path, folder: Path) -> None:
    try:
        os.rename(staging, folder / READY)
        finish(folder)
    except BaseException:  # Ctrl-C between two moves
        finish(folder)
        raise


def _tidy(folder: Path) -> None:
    """Deal with what a killed process left in a folder."""
    finish(folder)
    sweep_out(folder)


def finish(folder: Path) -> None:
    """Move files that are complete to their places, if a killed process has left such."""
    ready = folder / READY
    if ready.is_symlink() or not ready.is_dir():
        return
    for file in sorted(ready.iterdir()):
        with contextlib.suppress(FileNotFoundError):  # another process finishes it too
            if file.name.endswith(GONE):
                (folder / file.name.removesuffix(GONE)).unlink(missing_ok=True)
                file.unlink()
            else:
                os.replace(file, folder / file.name)
    with contextlib.suppress(FileNotFoundError):
        ready.rmdir()


def latest(folder: Path, name: str) -> Path:
    """Where a file of a folder is: in its place, or complete and not yet moved."""
    ready = folder / READY
    waiting = not ready.is_symlink() and (ready / name).is_file()
    return ready / name if waiting else folder / name


def sweep_out(folder: Path) -> None:
    """Remove what a process left unfinished that was killed."""
    for left in folder.glob(f"{PART}*") if fcntl else ():
        with contextlib.suppress(OSError), _locked(left, by_force=False):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write one file, or its pieces, so that no other process ever sees a part of it.

    Raises InputError or OutOfResources.
    """
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{PART}{os.getpid()}-{path.name}"[:250])
        try:
            with part.open("wb") as file, _locked(part):
                file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
                os.fsync(file.fileno())
                os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    written.append(path.parent)


def write_json(path: Path, value: Any) -> None:
    """JSON, whole or not at all."""
    write_whole(path, json.dumps(value).encode())


def storable(text: str) -> str:
    """A text that every file format can hold: no NUL, no lone surrogates."""
    return text.replace("\0", "\u2400").encode("utf-8", "replace").decode("utf-8")


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """What the disk refuses, in words."""
    try:
        yield
    except SinkscopeError:
        raise
    except Exception as error:
        if disk_is_full(error):
            raise OutOfResources(f"The disk is full; nothing was written to {folder}.") from None
        if isinstance(error, OSError):
            raise InputError(f"Cannot write to {folder}: {error.strerror or error}.") from None
        raise


def disk_is_full(error: BaseException) -> bool:
    """Whether an error says so; libraries in other languages say it in words only."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    said = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed writing")
    return any(words in str(error) for words in said)


def _make(folder: Path) -> list[Path]:
    """Make a folder and those above it; which of them are new, the outermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _unmake(made: list[Path]) -> None:
    for each in reversed(made):
        with contextlib.suppress(OSError):  # something is in it by now
            each.rmdir()


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    staging = Path(tempfile.mkdtemp(prefix=PART, dir=folder))
    try:
        with _locked(staging):
            yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _locked(path: Path, by_force: bool = True) -> Iterator[None]:
    """Hold a lock on a file or folder for the time being; it ends with its process at the latest.

    by_force  go on without it where the disk knows no locks; else OSError, also where another
              process holds it
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if not by_force:
                raise
        yield
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
