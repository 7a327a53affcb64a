"""How populations are trained: methods, optimizers, compiled programs."""
