"""A trained network as a page: the generator runs in the browser, and its latent space can be touched."""
