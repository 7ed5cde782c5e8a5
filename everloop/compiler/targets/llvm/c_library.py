"""The functions of the C library that kernels call, one number after the other; how many arguments each has."""

from __future__ import annotations

C_LIBRARY = {"sin": 1, "cos": 1, "atan": 1, "atan2": 2, "erf": 1, "erfc": 1, "log2": 1, "log10": 1, "exp2": 1}
