"""The speed of the training step, beside a peer's."""
