"""Version 1 of the contracts. The modules here are generated from the .proto files by the build."""
