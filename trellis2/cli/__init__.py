"""What the command line can do: modules of commands, each with `add_commands` for its own. They alone print."""
