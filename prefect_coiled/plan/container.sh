# The node in a container: the machine needs Docker, and nothing of Python. The container has the machine's
# network, so that its metadata is one hop away, and its memory. When it ends, however it does, or when Docker
# itself dies, the machine powers off.
IMAGE=@IMAGE@
set -o pipefail

run_container() { # configuration on stdin
  docker rm --force prefect-coiled-node >/dev/null 2>&1 || :
  exec 3<&0
  NODE=
  STOPPED="${STOPPED:-}"
  trap 'STOPPED=1; [ -z "$NODE" ] || kill -TERM "$NODE" 2>/dev/null || :' TERM INT
  docker run --rm --interactive --name prefect-coiled-node --network host --ipc host --tmpfs /run@GPUS@ \
    --ulimit nofile=1048576:1048576 --log-driver json-file --log-opt max-size=10m \
    -e PREFECT_COILED_IMAGE="$IMAGE" -e AWS_ENDPOINT_URL -e AWS_EC2_METADATA_SERVICE_ENDPOINT \
    --entrypoint prefect-coiled-node "$IMAGE" --config - <&3 &
  NODE=$!
  [ -z "$STOPPED" ] || kill -TERM "$NODE" 2>/dev/null || : # asked for as it was started
  rc=0
  wait "$NODE" || rc=$?
  while kill -0 "$NODE" 2>/dev/null; do
    rc=0
    wait "$NODE" || rc=$?
  done
  case "$rc" in
    125) why="Docker could not run it" ;;
    126 | 127) why="there is no prefect-coiled-node in the image $IMAGE: install prefect-dask-ec2 into it" ;;
    *) why="the container ended" ;;
  esac
  say "reason=container-ended rc=$rc, $why; powering off"
  return "$rc"
}

again() { # seconds between the tries, then the command
  pauses="$1"
  shift
  for pause in $pauses 0; do
    rc=0
    "$@" || rc=$?
    [ "$rc" != 0 ] || return 0
    sleep "$pause"
  done
  return "$rc"
}

log_in() { # what prints the password; it goes on by a pipe, and is no argument of any process
  # A new role takes a while until it works.
  password="$(again "2 5 10 20 30" "$@")"
  printf '%s' "$password" | docker login --username @USER@ --password-stdin @HOST@
  password=
}

write_starter() { # a script that does the above by itself, for systemd
  mkdir -p "$BASE"
  {
    echo '#!/bin/bash'
    declare -p IMAGE
    declare -f say run_container
    echo "run_container <$ROOT/etc/prefect-coiled/node.json"
  } >"$BASE/container"
  chmod 700 "$BASE/container"
}

guard
step "getting Docker"
command -v docker >/dev/null || dnf install -y -q docker
docker info >/dev/null 2>&1 || systemctl enable --now docker
@LOGIN@
step "pulling $IMAGE"
again "2 5" docker pull --quiet "$IMAGE"
docker logout @HOST@ >/dev/null 2>&1 || :
step "starting the container"
if [ -z "${AWS_EC2_METADATA_SERVICE_ENDPOINT:-}" ] && [ -d "$ROOT/run/systemd/system" ]; then
  write_starter
  run_unit "$BASE/container" docker.service
else
  kill "$GUARD" 2>/dev/null || :
  GUARD=
  rc=0
  run_container < <(config) || rc=$?
  trap - EXIT
  shutdown -h now || poweroff -f
  (exit "$rc")
fi
