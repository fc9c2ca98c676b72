"""What goes with compiling kernels: a line in the log, a thread beside other work, the garbage collector paused."""
