"""The command line. It reaches the gateway through its public API only, so any client can do what it does."""
