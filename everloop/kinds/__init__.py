"""The built-in kinds of models, one file each: its data, what it predicts, how it is evaluated, its registration."""
