"""Take attempts, run the chain, decide by the ledger, reply."""
