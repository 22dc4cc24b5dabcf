"""What every refused input has in common."""

import pytest


def refused(call, *parts, error=ValueError):
    """``call`` raises ``error`` and no other kind, with a message that has all the parts."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    for part in ("expected", "got", *parts):
        assert part in message, f"{part!r} is not in: {message}"
