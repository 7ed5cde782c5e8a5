"""The functions of the C library that kernels call for angles too large, one number after the other."""

from __future__ import annotations

C_LIBRARY = ("sin", "cos")
