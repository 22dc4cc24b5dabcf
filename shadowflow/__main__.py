"""The command line: `shadowflow`, and `python -m shadowflow` where that is not on the path."""

import sys

from .extras import need


def main() -> int:
    """Run it and return its exit code: 2, with a line, where the package that parses is missing."""
    try:
        need("the command line", "tyro", "'shadowflow[cli]'")
    except ImportError as error:
        print(f"shadowflow: {error}", file=sys.stderr)
        return 2
    from .cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
