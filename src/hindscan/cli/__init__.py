"""The command line: one module per group of commands, all on the same options, output and exit codes."""
