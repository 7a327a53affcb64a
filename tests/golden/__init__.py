"""Numbers of known versions of jax, by backend, and what makes them."""
