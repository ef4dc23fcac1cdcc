"""The console: the gateway in a browser. It asks nothing but the public services, with the token of who looks."""
