"""Who asks: what one client may have much of is counted by it."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.requests import Request

ONE_SITE = 64
"""Bits of an IPv6 address that one subscriber has in common; the rest they choose as they like (RFC 4291, 2.5.4)."""

TRANSLATED = ip_network("64:ff9b::/96")
"""IPv4 clients as an IPv6-only network sees them: the last 32 bits are theirs (RFC 6052, 2.1)."""


def client_of(request: Request) -> str:
    """The address of the connection, or what a trusted proxy says it is (see FORWARDED_ALLOW_IPS); of IPv6 its /64."""
    host = request.client.host if request.client else "unknown"
    try:
        address = ip_address(host.partition("%")[0])  # without the zone of a link-local one
    except ValueError:  # a proxy's word for it, or a socket that has no address
        return host
    if not isinstance(address, IPv6Address) or address.is_link_local:
        return str(address)
    if address in TRANSLATED:
        return str(IPv4Address(int(address) & 0xFFFFFFFF))
    return str(address.ipv4_mapped or ip_network((address, ONE_SITE), strict=False))
