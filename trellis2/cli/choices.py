"""What commands say alike of what may be chosen."""

CHECKPOINT = "a folder, a hub repository, or mini: the built-in one"
