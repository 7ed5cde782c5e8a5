"""Random cells as users write them, in random calls of a layer, against a loop over single rows in plain PyTorch."""
