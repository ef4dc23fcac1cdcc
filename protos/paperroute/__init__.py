"""PaperRoute's gRPC contracts, as Python modules."""
