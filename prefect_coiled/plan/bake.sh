#!/bin/bash
# The recipe of an image: installs the environment of a lock on a bare Amazon Linux 2023 and powers off.
# It is the installation that a machine of a cluster runs at its boot; the image is taken of what it leaves.
set -eu
@INSTALLER@
guard
install_all
step "cleaning up"
# Compiled once here instead of at every boot.
"$ENV/bin/python" -m compileall -q -j 0 "$ENV/lib" >/dev/null || :
rm -rf "$UV_CACHE_DIR"
kill "$GUARD" 2>/dev/null || :
GUARD=
say "@BAKED@ @LOCK@"
shutdown -h now
