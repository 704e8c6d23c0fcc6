"""Chat models: the protocol, and the backends that speak it."""
