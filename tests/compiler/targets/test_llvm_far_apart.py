"""Kernels are linked in a process whose free memory is in small pieces, gigabytes apart."""

from __future__ import annotations

import subprocess
import sys

import pytest

# The address space is filled, but for one page near its top and the free space gigabytes below it: what is linked from
# several pieces finds room for the first piece in the one and for the second in the other.
PROGRAM = """
import ctypes

from everloop.compiler.targets.llvm import machine

PAGE, GIGABYTE, RESERVED = 4096, 1 << 30, 0x4022  # private, anonymous, no memory behind it
c = ctypes.CDLL(None)
c.mmap.restype = ctypes.c_void_p
c.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
c.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def reserve(size):
    return c.mmap(None, size, 0, RESERVED, -1, 0)


def fill():
    size = GIGABYTE // 4
    while size >= PAGE:
        place, lowest = reserve(size), reserve(8 * GIGABYTE)
        c.munmap(lowest, 8 * GIGABYTE)
        if lowest <= place <= lowest + 8 * GIGABYTE:  # no hole of this size is left above the free space
            c.munmap(place, size)
            size //= 2


isa = machine.host()
text = '''
declare double @erf(double)
define double @f(double %x) #0 {
  %y = call double @erf(double %x)
  %z = fmul double %y, 3.25
  ret double %z
}
attributes #0 = { nounwind }
'''
code = machine.generate(f'target triple = "{machine.triple(isa)}"' + text, isa)
machine.Library(code, ("f",))
fill()
wall = reserve(6 * GIGABYTE)
fill()
c.munmap(wall + 6 * GIGABYTE - 8 * PAGE, PAGE)
library = machine.Library(code, ("f",))
print(ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(library.address["f"])(0.3))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mmap with the numbers of Linux")
def test_code_and_constants_are_linked_in_one_piece() -> None:
    pytest.importorskip("llvmlite")
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert abs(float(ran.stdout) - 3.25 * 0.3286267594591274) < 1e-12  # erf(0.3), Abramowitz and Stegun, table 7.1
