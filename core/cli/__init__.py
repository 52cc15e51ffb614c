"""The operator's command `agents`. Each command imports what it needs when it runs: `--help` answers at once."""
