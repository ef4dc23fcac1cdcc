"""The services behind the gateway: one folder each, and `common` for what all of them use."""
