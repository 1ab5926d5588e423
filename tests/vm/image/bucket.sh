#!/bin/bash
# aws ... s3 cp OPTION... s3://BUCKET/KEY TARGET ...: stands for Amazon's command line while an image is made.
# The bucket is a folder beside it, and holds nothing but what is wanted.
set -eu
while [[ $1 != s3://* ]]; do shift; done
source="/run/bake/bucket/${1#s3://*/}"
[ ! -d "$source" ] || source="$source/."
cp -R "$source" "$2"
