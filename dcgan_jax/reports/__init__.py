"""What an experiment leaves behind: figures, tables, pictures."""
