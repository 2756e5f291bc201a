"""What we remember: states, ledger, partials, results."""
