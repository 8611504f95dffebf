"""A system call filter, written by hand: which calls a sandboxed process is refused.

Refused calls fail with EPERM, so that an honest program sees an ordinary `PermissionError`. The list closes the ways
out that namespaces, rlimits and a read-only view leave: other processes' memory, kernel interfaces with a long record
of holes (io_uring, bpf, userfaultfd, perf), new namespaces and mounts, sockets, and memory that no limit counts.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from functools import lru_cache

EPERM, ENOMEM, ENOSYS = 1, 12, 38
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
NUMBER_AT, ARCHITECTURE_AT, ARGUMENT_AT = 0, 4, 16  # offsets in struct seccomp_data; arguments are 8 bytes each
NEW_NAMESPACES = 0x7E020000  # CLONE_NEW*: user, pid, net, ipc, uts, cgroup, mount
AF_UNIX, SOCK_STREAM, SOCKET_TYPE = 1, 1, 0xF
SHARED_ANONYMOUS = 0x21
ANY = 0xFFFFFFFF  # every bit of an argument
X32 = 0x40000000  # x86_64 only: the other way to number the same calls
PR_SET_SECCOMP, MODE_FILTER = 22, 2

# name: number on x86_64, on aarch64; None where there is no such call
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "setns": (308, 268),
    "unshare": (272, 97),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "socket": (41, 198),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "vmsplice": (278, 75),  # pages in a pipe stay when they leave every process
    "io_setup": (206, 0),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "acct": (163, 89),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "personality": (135, 92),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "lookup_dcookie": (212, 18),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
}
# What Landlock does not cover, and a read-only mount would: only where there is no such mount.
ATTRIBUTES: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}
# Only with the own process id as target; where no pid namespace hides the others.
SIGNALS = {"kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138)}
SIGNALS_BY_OTHER_NAMES: dict[str, tuple[int | None, int | None]] = {
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
}
# The same for limits and priorities; the calling process is 0 here. With the argument that names it.
ONLY_OWN: dict[str, tuple[int, int, int]] = {
    "prlimit64": (302, 261, 0),
    "sched_setscheduler": (144, 119, 0),
    "sched_setparam": (142, 118, 0),
    "sched_setattr": (314, 274, 0),
    "sched_setaffinity": (203, 122, 0),
    "setpriority": (141, 140, 1),
    "ioprio_set": (251, 30, 1),
}
WHOLE_USERS = {"setpriority": 0, "ioprio_set": 1}  # the first argument of these two, for one process
CLONE, CLONE3, SOCKETPAIR, MMAP = (56, 220), (435, 435), (53, 199), (9, 222)

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, audit number


def supported() -> bool:
    """Whether a filter is known for this processor."""
    return platform.machine() in MACHINES and struct.calcsize("P") == 8


def install(libc: ctypes.CDLL, *, exposed: int | None = None) -> None:
    """Filter this process and all its descendants, for good. Needs `no_new_privs`.

    Args:
        libc (`ctypes.CDLL`): opened with `use_errno=True`.
        exposed (`int`, *optional*): where no namespace hides the machine: this process's id, the only one that may
            be sent signals or change its limits; and files keep their attributes.

    Raises:
        OSError: the kernel refuses the filter.
    """
    code = program(exposed)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    if libc.prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.create_string_buffer(header, len(header)), 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, "seccomp filter refused")


@lru_cache(maxsize=4)
def program(exposed: int | None = None) -> bytes:
    """The filter as BPF: `struct sock_filter` after `struct sock_filter`."""
    column, audit = MACHINES[platform.machine()]
    lines = [
        _line(LOAD, ARCHITECTURE_AT),
        _line(JUMP_EQUAL, audit, 1, 0),
        _line(RETURN, KILL),
        _line(LOAD, NUMBER_AT),
    ]
    if column == 0:
        lines += [_line(JUMP_AT_LEAST, X32, 0, 1), _line(RETURN, ERRNO | ENOSYS)]
    # clone3 hides its flags behind a pointer; told that it does not exist, libc falls back on clone.
    lines += [_line(JUMP_EQUAL, CLONE3[column], 0, 1), _line(RETURN, ERRNO | ENOSYS)]
    refused = list(REFUSED.values())
    if exposed is not None:
        refused += [*SIGNALS_BY_OTHER_NAMES.values(), *ATTRIBUTES.values()]
    for numbers in refused:
        number = numbers[column]
        if number is not None:
            lines += [_line(JUMP_EQUAL, number, 0, 1), _line(RETURN, ERRNO | EPERM)]
    lines += _never(CLONE[column], JUMP_ANY_BIT, NEW_NAMESPACES)
    # Shared anonymous memory stays when its pages leave every process: no limit and no watchdog counts it.
    lines += [
        _line(JUMP_EQUAL, MMAP[column], 0, 5),
        _line(LOAD, ARGUMENT_AT + 3 * 8),
        _line(AND, SHARED_ANONYMOUS),
        _line(JUMP_EQUAL, SHARED_ANONYMOUS, 0, 1),
        _line(RETURN, ERRNO | ENOMEM),
        _line(RETURN, ALLOW),
    ]
    # Datagrams are kept whole, each with kernel memory of its own.
    lines += _only(SOCKETPAIR[column], (0, ANY, AF_UNIX), (1, SOCKET_TYPE, SOCK_STREAM))
    if exposed is not None:
        for numbers in SIGNALS.values():
            lines += _only(numbers[column], (0, ANY, exposed))
        for name, entry in ONLY_OWN.items():
            whole = [(0, ANY, WHOLE_USERS[name])] if name in WHOLE_USERS else []
            lines += _only(entry[column], *whole, (entry[2], ANY, 0))
    return b"".join([*lines, _line(RETURN, ALLOW)])


def _line(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value & 0xFFFFFFFF)


def _never(number: int, test: int, value: int) -> list[bytes]:
    """For this call alone: refuse it where its first argument passes the test, else allow it."""
    return [
        _line(JUMP_EQUAL, number, 0, 4),
        _line(LOAD, ARGUMENT_AT),
        _line(test, value, 0, 1),
        _line(RETURN, ERRNO | EPERM),
        _line(RETURN, ALLOW),
    ]


def _only(number: int, *wanted: tuple[int, int, int]) -> list[bytes]:
    """For this call alone: allow it where each of these arguments, behind its mask, has its value; else refuse it."""
    lines = []
    for place, mask, value in wanted:
        lines += [_line(LOAD, ARGUMENT_AT + 8 * place), _line(AND, mask), _line(JUMP_EQUAL, value, 1, 0)]
        lines += [_line(RETURN, ERRNO | EPERM)]
    return [_line(JUMP_EQUAL, number, 0, len(lines) + 1), *lines, _line(RETURN, ALLOW)]
