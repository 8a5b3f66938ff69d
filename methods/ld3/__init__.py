"""LD3: timesteps by gradient descent through the solver."""
