"""Everything about a call that costs: who pays, what it took, its price, the ledger, the governor."""
