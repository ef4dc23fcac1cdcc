"""Who may do what: tenants, tokens, scopes, rates, and the record of what was done."""
