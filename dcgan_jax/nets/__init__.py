"""The networks of the paper: layers, losses, and what is counted of them."""
