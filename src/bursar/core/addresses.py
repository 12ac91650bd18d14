"""The one form of an IP address: ::ffff:203.0.113.9 is 203.0.113.9, whoever says it how."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

MAPPED_BITS = 96  # of an IPv6 address that holds an IPv4 one


def canonical(text: str) -> IPv4Address | IPv6Address:
    """Without the zone of an interface, which one machine alone understands; or ValueError."""
    found = ip_address(text)
    if isinstance(found, IPv4Address):
        return found
    return found.ipv4_mapped or IPv6Address(int(found))


def canonical_network(text: str) -> IPv4Network | IPv6Network:
    """An address stands for itself alone, a network for all in it; or ValueError."""
    found = ip_network(text, strict=False)
    if isinstance(found, IPv4Network) or found.prefixlen < MAPPED_BITS:
        return found
    mapped = found.network_address.ipv4_mapped
    return IPv4Network((int(mapped), found.prefixlen - MAPPED_BITS)) if mapped else found
