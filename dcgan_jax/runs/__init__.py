"""A run: its folder, its checkpoints, what happens beside its steps, and what can be drawn from it."""
