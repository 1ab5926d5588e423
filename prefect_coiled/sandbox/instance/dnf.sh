#!/bin/sh
# Stands for dnf inside a bare sandbox instance, which is no Amazon Linux: the only package that it has is the
# Python that this sandbox runs on.
for word in "$@"; do
    case "$word" in
        install | -*) ;;
        "@PYTHON@")
            mkdir -p "$SANDBOX_DIR/bin"
            ln -sf "@EXECUTABLE@" "$SANDBOX_DIR/bin/$word"
            ;;
        *)
            echo "Error: Unable to find a match: $word" >&2
            exit 1
            ;;
    esac
done
