"""Flow matching: schedules, guidance, Euler steps, noise, and the stages built on them."""
