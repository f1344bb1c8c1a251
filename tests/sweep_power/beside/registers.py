"""One bit of a vector register of a running thread, flipped from outside: the same fault for every
program, whatever it was written in.

Through ptrace(2): the thread is stopped for well under a millisecond.  What a register held may be
dead, or an address and no number; that is so for every program alike.
"""

from __future__ import annotations

import ctypes
import os
import random
import struct
from dataclasses import dataclass
from pathlib import Path

SEIZE, INTERRUPT, DETACH, GETREGSET, SETREGSET = 0x4206, 0x4207, 17, 0x4204, 0x4205
NT_X86_XSTATE = 0x202
WALL = 0x40000000
MAX_STATE_BYTES = 16384
STATE_PRESENT = 512
"""Offset of the word that says which parts follow; SDM volume 1, section 13.4."""
PARTS = ((1, 160, 256), (2, 576, 256), (6, 1152, 512))
"""Bit of that word, offset and bytes: the low 128, 256 and 512 bits of registers 0 to 15."""
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


@dataclass(frozen=True)
class Flip:
    """``byte`` and ``bit`` of the thread's saved state."""

    thread: int
    byte: int
    bit: int


def _ptrace(request: int, thread: int, address: int = 0, data: int = 0) -> None:
    if _libc.ptrace(request, thread, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace {request:#x} of {thread}: {os.strerror(number)}")


def _state(thread: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    """The saved state into the buffer; its length."""
    vector = _Vector(ctypes.addressof(buffer), len(buffer))
    _ptrace(GETREGSET, thread, NT_X86_XSTATE, ctypes.addressof(vector))
    return int(vector.length)


def flip(thread: int, draw: random.Random) -> Flip:
    """Flip one bit that ``draw`` chooses, of a thread that runs; it goes on.

    Raises:
        OSError: where the thread is gone, or may not be traced.
    """
    _ptrace(SEIZE, thread)
    try:
        _ptrace(INTERRUPT, thread)
        os.waitpid(thread, WALL)
        buffer = ctypes.create_string_buffer(MAX_STATE_BYTES)
        length = _state(thread, buffer)
        (present,) = struct.unpack_from("<Q", buffer, STATE_PRESENT)
        parts = [(offset, size) for bit, offset, size in PARTS
                 if present >> bit & 1 and offset + size <= length] or [PARTS[0][1:]]
        bytes_of = [offset + n for offset, size in parts for n in range(size)]
        found = Flip(thread, draw.choice(bytes_of), draw.randrange(8))
        struct.pack_into("<Q", buffer, STATE_PRESENT, present | 2)
        buffer[found.byte] = bytes([buffer.raw[found.byte] ^ 1 << found.bit])
        vector = _Vector(ctypes.addressof(buffer), length)
        _ptrace(SETREGSET, thread, NT_X86_XSTATE, ctypes.addressof(vector))
        return found
    finally:
        _ptrace(DETACH, thread)


def state_of(thread: int) -> bytes:
    """The saved state of a thread."""
    _ptrace(SEIZE, thread)
    try:
        _ptrace(INTERRUPT, thread)
        os.waitpid(thread, WALL)
        buffer = ctypes.create_string_buffer(MAX_STATE_BYTES)
        return buffer.raw[:_state(thread, buffer)]
    finally:
        _ptrace(DETACH, thread)


def running_on(core: int, processes: list[int]) -> list[int]:
    """Threads of these processes that are computing on the core now."""
    found = []
    for pid in processes:
        try:
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
        except OSError:
            continue
        for task in tasks:
            try:
                fields = (task / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] == "R" and int(fields[36]) == core:
                found.append(int(task.name))
    return found
