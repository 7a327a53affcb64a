"""How fast bean_jax is, beside what one would do instead: see `run`."""
