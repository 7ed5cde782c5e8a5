"""Which items come together in a batch, and how they are padded."""
