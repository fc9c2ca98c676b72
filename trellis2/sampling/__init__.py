"""Flow matching: schedules, guidance, integrators, noise, and the stages built on them."""
