"""Where networks run: device memory, residency, weight streaming, CUDA graphs."""
