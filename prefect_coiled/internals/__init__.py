"""What this library uses of its dependencies that is not public: one file for each, with the releases seen.

A release that renames one of these fails at the import of its file, and in `tests/unit/test_internals.py`,
which `make newest-test` runs with the newest releases.
"""
