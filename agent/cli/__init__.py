"""Commands and launchers: argv, exit codes, printing. Nothing imports this room."""
