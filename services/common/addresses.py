"""Addresses: which of them nobody on another machine can reach."""

import ipaddress


def is_loopback(address: str) -> bool:
    """Return whether nobody on another machine can reach "host:port", or hear what is sent there."""
    host = address.rpartition(":")[0].strip("[]")
    if address.startswith(("unix:", "unix-abstract:")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_loopback_target(target: str) -> bool:
    """Return whether all addresses of a gRPC target are loopback: "host:port", "ipv4:host:port,host:port"."""
    bare = target
    for scheme in ("dns:///", "dns:", "ipv4:", "ipv6:"):
        bare = bare.removeprefix(scheme)
    return all(is_loopback(address) for address in bare.split(","))
