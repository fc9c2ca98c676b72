"""Command line: one module per group of commands, each with `add_commands`. Only these modules print."""
