"""A DHCP client for `own` mode (RFC 2131): codec and state machine are pure, one module holds the socket."""
