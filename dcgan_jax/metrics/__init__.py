"""Numbers for generated images beside real ones."""
