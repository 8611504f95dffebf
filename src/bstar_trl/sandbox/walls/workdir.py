"""The directory for a program's files where no mount namespace gives it one; and how to remove a hostile one.

No recursion (directories may be nested 100,000 deep), no path that a symlink could lead elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import tempfile

FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make() -> str:
    """A fresh directory that any user may write to."""
    path = tempfile.mkdtemp(prefix="bstar-sandbox-")
    os.chmod(path, 0o1777)
    return path


def empty(path: str) -> None:
    """Remove everything in the directory; subdirectories are lifted to the top before they are emptied."""
    top = os.open(path, FLAGS)
    lifted = 0
    try:
        while names := os.listdir(top):
            for name in names:
                try:
                    os.unlink(name, dir_fd=top)
                    continue
                except IsADirectoryError:
                    pass
                with contextlib.suppress(OSError):
                    os.chmod(name, 0o700, dir_fd=top)
                inner = os.open(name, FLAGS, dir_fd=top)
                try:
                    for deeper in os.listdir(inner):
                        try:
                            os.unlink(deeper, dir_fd=inner)
                        except IsADirectoryError:
                            lifted += 1
                            with contextlib.suppress(OSError):
                                os.chmod(deeper, 0o700, dir_fd=inner)
                            os.rename(deeper, f"lifted-{lifted}-{os.getpid()}", src_dir_fd=inner, dst_dir_fd=top)
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def remove(path: str) -> None:
    """The directory itself, too."""
    with contextlib.suppress(FileNotFoundError):
        empty(path)
        os.rmdir(path)
