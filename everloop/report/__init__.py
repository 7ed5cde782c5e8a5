"""A run told to people: its figures, and a page with all that is known of it."""
