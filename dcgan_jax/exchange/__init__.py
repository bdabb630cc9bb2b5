"""Files of other programs: what they read of a run, and what a run takes from them."""
