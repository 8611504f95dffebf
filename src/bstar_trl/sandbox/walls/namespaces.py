"""The walls: namespaces and a file system of its own for the warm parent, limits and filters for its children.

`enter_namespaces` and `build_root` are for the warm parent (`zygote.py`), once; `confine` is for each single-use
child, on the way from trusted to untrusted code. Everything goes through libc: neither bubblewrap nor any other
program is needed.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from . import landlock, seccomp

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_MOUNT, NEW_UTS, NEW_IPC, NEW_USER = 0x00020000, 0x04000000, 0x08000000, 0x10000000
NEW_PID, NEW_NET = 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 4096, 16384, 1 << 18
MNT_DETACH = 2
MOUNT_SETATTR, AT_RECURSIVE = 442, 0x8000
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
INSIDE_ID = 1000  # user and group inside the user namespace
NOBODY = 65534  # and outside, where root lends it
DEVICES = ("null", "random", "urandom")  # not zero: it gives memory that nobody counts
STDLIB = sorted({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})
CAPABILITY_HEADER = struct.pack("Ii", 0x20080522, 0)  # version 3, this process
NO_CAPABILITIES = bytes(24)
STACK = 64 << 20  # bytes of the main thread's stack

# Which namespaces are to be had: all through a user namespace; all as real root; none.
Level = Literal["user", "root", "none"]
LEVELS: tuple[Level, ...] = ("user", "root", "none")


@dataclass
class Ground:
    """What the warm parent stands on.

    Attributes:
        level (`str`): which namespaces there are.
        readable (`list[str]`): paths that a child may read.
        writable (`list[str]`): paths that a child may write below.
        work (`str`): the directory for a child's files.
        proc (`int`): a descriptor of a procfs that shows the warm parent and its children.
        own_pid (`int`): the warm parent's process id in it.
        core (`int`): where the warm parent runs.
        cores (`set[int]`): where programs may run.
        others (`int`): processes and threads of the children's user that have nothing to do with this sandbox. In a
            user namespace of its own there are none; elsewhere the limit on processes counts them, too.
        run_as (`int`, *optional*): the user a child becomes; None: it stays what it is.
        missing (`list[str]`): the layers this machine does not give, and why.
    """

    level: Level
    readable: list[str]
    writable: list[str] = field(default_factory=list)
    work: str = "/tmp"
    proc: int = -1
    own_pid: int = 0
    core: int = 0
    cores: set[int] = field(default_factory=lambda: os.sched_getaffinity(0))
    others: int = 0
    run_as: int | None = None
    missing: list[str] = field(default_factory=list)


def check(result: int, what: str) -> int:
    """Raises `OSError` where a libc function failed."""
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def enter_namespaces(level: Level) -> None:
    """Leave the machine's namespaces; the next child is the first process of the new pid namespace.

    Raises:
        OSError: the machine does not allow it.
    """
    flags = NEW_MOUNT | NEW_UTS | NEW_IPC | NEW_PID | NEW_NET
    if level == "none":
        return
    if level == "root":
        check(LIBC.unshare(flags), "unshare")
        return
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 and _map_as_nobody():
        return
    check(LIBC.unshare(NEW_USER | flags), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    _write_map("self", uid, gid)


def _map_as_nobody() -> bool:
    """As root: a user namespace whose user is nobody outside, not root. A helper outside must write the map."""
    ask, answer = os.pipe(), os.pipe()
    flags = NEW_USER | NEW_MOUNT | NEW_UTS | NEW_IPC | NEW_PID | NEW_NET
    target, helper = os.getpid(), os.fork()
    if helper == 0:
        try:
            os.close(ask[1])
            if os.read(ask[0], 1):
                _write_map(str(target), NOBODY, NOBODY)
                os.write(answer[1], b"+")
        finally:
            os._exit(0)
    os.close(answer[1])
    try:
        check(LIBC.unshare(flags), "unshare")
        os.write(ask[1], b"?")
        if os.read(answer[0], 1):
            return True
    finally:
        for descriptor in (*ask, answer[0]):
            os.close(descriptor)
        os.waitpid(helper, 0)
    raise OSError(1, "uid_map: the user 'nobody' cannot be mapped")


def _write_map(process: str, uid: int, gid: int) -> None:
    Path(f"/proc/{process}/uid_map").write_text(f"{INSIDE_ID} {uid} 1")
    Path(f"/proc/{process}/gid_map").write_text(f"{INSIDE_ID} {gid} 1")


def take_inside_id() -> None:
    """Become the one user of the user namespace. Capabilities in it stay."""
    LIBC.setgroups(0, None)  # refused, and not needed, where the map was written without privilege
    os.setresgid(INSIDE_ID, INSIDE_ID, INSIDE_ID)
    os.setresuid(INSIDE_ID, INSIDE_ID, INSIDE_ID)


def visible_paths() -> list[str]:
    """What a program needs to run Python's standard library, and nothing else of the machine."""
    paths = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache"]
    paths += [f"{sys.base_prefix}/lib", *STDLIB, os.path.realpath(sys.executable)]
    with open("/proc/self/maps") as maps:  # libpython and the like, wherever they lie
        paths += sorted({line.split(maxsplit=5)[5].strip() for line in maps if ".so" in line and "/" in line})
    kept: list[str] = []
    for path in paths:
        inside = any(os.path.realpath(path).startswith(os.path.realpath(other) + "/") for other in kept)
        if os.path.exists(path) and path not in kept and not inside:
            kept.append(path)
    return kept


def open_sources(paths: list[str]) -> dict[str, int | str]:
    """For each path a descriptor, or where a link leads: while they can still be reached as the machine's own user."""
    found: dict[str, int | str] = {}
    for path in [*paths, *[f"/dev/{name}" for name in DEVICES]]:
        if os.path.islink(path):
            found[path] = os.readlink(path)
        elif os.path.exists(path):
            found[path] = os.open(path, os.O_PATH | os.O_CLOEXEC)
    return found


def build_root(sources: dict[str, int | str]) -> int:
    """A root of its own, read-only: these paths, an empty `/tmp`. Call it as the namespaces' first process.

    Returns:
        `int`: a descriptor of the procfs of the new pid namespace; -1 where none can be mounted.

    Raises:
        OSError: a mount is refused.
    """
    check(LIBC.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount /")
    _mount_tmpfs("/tmp", "size=1m,mode=755")
    os.mkdir("/tmp/old")
    check(LIBC.syscall(PIVOT_ROOT[os.uname().machine], b"/tmp", b"/tmp/old"), "pivot_root")
    os.chdir("/")
    for path, source in sources.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if isinstance(source, str):
            os.symlink(source, path)
        else:
            _bind(source, path)
            os.close(source)
    for path in {f"{path}/{name}" for path in STDLIB for name in ("site-packages", "dist-packages")}:
        if os.path.isdir(path):
            _mount_tmpfs(path, "size=4k,mode=555", MS_RDONLY)
    for name in ("tmp", "proc"):
        os.makedirs(f"/{name}", exist_ok=True)
    os.symlink("/tmp", "/dev/shm")
    proc = -1
    if LIBC.mount(b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV, None) == 0:
        proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        LIBC.umount2(b"/proc", MNT_DETACH)
    check(LIBC.umount2(b"/old", MNT_DETACH), "umount")
    os.rmdir("/old")
    _set_read_only("/", recursive=False)
    LIBC.sethostname(b"sandbox", 7)
    return proc


def _mount_tmpfs(path: str, options: str, flags: int = 0) -> None:
    arguments = (b"tmpfs", path.encode(), b"tmpfs", MS_NOSUID | MS_NODEV | flags, options.encode())
    check(LIBC.mount(*arguments), f"mount {path}")


def _bind(source: int, path: str) -> None:
    """Show what the descriptor stands for at this path of the new root, read-only (devices: as they are)."""
    origin = f"/old/proc/self/fd/{source}"
    if os.path.isdir(origin):
        os.makedirs(path, exist_ok=True)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_RDONLY, 0o444))
    check(LIBC.mount(origin.encode(), path.encode(), None, MS_BIND | MS_REC, None), f"bind {path}")
    if not path.startswith("/dev/"):
        _set_read_only(path, recursive=True)


def _set_read_only(path: str, *, recursive: bool) -> None:
    attributes = (ctypes.c_uint64 * 4)(MS_RDONLY | MS_NOSUID | MS_NODEV, 0, 0, 0)
    arguments = (MOUNT_SETATTR, -100, path.encode(), AT_RECURSIVE if recursive else 0, attributes, ctypes.c_size_t(32))
    check(LIBC.syscall(*arguments), f"read-only {path}")


def fresh_files(disk_mb: int) -> None:
    """An empty, private `/tmp` of this process alone; it vanishes with it."""
    check(LIBC.unshare(NEW_MOUNT), "unshare")
    _mount_tmpfs("/tmp", f"size={disk_mb}m,nr_inodes=16384,mode=1777")


def confine(ground: Ground, *, memory: int, seconds: int, processes: int, disk: int) -> None:
    """The last trusted steps of a child: limits, no privileges, no system calls or files beyond what programs need.

    Args:
        ground (`Ground`): what the warm parent stands on.
        memory (`int`): bytes of private memory per process.
        seconds (`int`): processor time per process.
        processes (`int`): processes and threads of the user at once.
        disk (`int`): bytes per file.
    """
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_DATA, memory)
    _limit(resource.RLIMIT_AS, 4 * memory + (1 << 30))
    _limit(resource.RLIMIT_CPU, seconds)
    _limit(resource.RLIMIT_FSIZE, disk)
    _limit(resource.RLIMIT_NOFILE, 128)  # which bounds the buffers of pipes and socket pairs, too
    _limit(resource.RLIMIT_STACK, STACK)
    _limit(resource.RLIMIT_NPROC, ground.others + processes)
    _limit(resource.RLIMIT_MSGQUEUE, 0)
    _limit(resource.RLIMIT_MEMLOCK, 0)
    if ground.run_as is not None:
        os.setgroups([])
        os.setresgid(ground.run_as, ground.run_as, ground.run_as)
        os.setresuid(ground.run_as, ground.run_as, ground.run_as)
    check(LIBC.capset(CAPABILITY_HEADER, NO_CAPABILITIES), "capset")
    check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if landlock.version(LIBC):
        landlock.restrict(LIBC, ground.readable, ground.writable)
    if seccomp.supported():
        seccomp.install(LIBC, exposed=os.getpid() if ground.level == "none" else None)


def _limit(which: int, value: int) -> None:
    """A soft and hard limit, as far as the present hard one allows."""
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))
