"""Each test has a street of its own."""

from tests.netagent.street import listener, street

__all__ = ["listener", "street"]
