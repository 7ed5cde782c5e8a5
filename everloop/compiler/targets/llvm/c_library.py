"""The functions of the C library that kernels call, one number after the other; how many arguments each has."""

from __future__ import annotations

C_LIBRARY = {
    "sin": 1, "cos": 1, "tan": 1, "asin": 1, "acos": 1, "atan": 1, "atan2": 2,
    "sinh": 1, "cosh": 1, "asinh": 1, "acosh": 1, "atanh": 1, "erf": 1, "erfc": 1,
}  # fmt: skip
