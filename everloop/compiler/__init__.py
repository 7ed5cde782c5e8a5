"""How a step is run: from a cell to the kernels of a target. The passes are listed in `passes`."""
