"""The public services: each method reads its request, asks the jobs, the money or the access, and writes its answer."""
