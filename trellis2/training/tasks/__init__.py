"""What can be trained: a task holds networks and a loss."""
