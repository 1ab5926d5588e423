"""The one door to AWS. One resource a file, the same verbs: find, ensure, delete.

Nothing outside this package makes an AWS call. `find_*` asks by tag; `ensure_*` finds first and makes
what is missing, and is a no-op when all is there; `delete_*` takes "not found" for success.
"""
