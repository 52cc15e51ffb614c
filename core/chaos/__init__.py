"""The machine that proves that nothing is lost: a hierarchy under faults, a ledger of all that happened, a judge."""
