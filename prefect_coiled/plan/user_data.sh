#!/bin/bash
# Starts the node of a prefect-coiled cluster. Holds no secret: keys are fetched with the instance's role.
# Whatever fails, the machine says why on its console and powers off; power-off terminates it.
set -eu
ROOT="${PREFECT_COILED_ROOT:-}" # another root directory, for tests
BASE="$ROOT/opt/prefect-coiled"
ENV="$BASE/env"
export HOME="${HOME:-/root}"
WHY=boot-failed
STEP=start
NODE=
GUARD=

say() { echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) prefect-coiled: $*"; }
step() { STEP="$1"; say "$1"; }
off() {
  rc=$?
  trap - EXIT
  [ -z "$GUARD" ] || kill "$GUARD" 2>/dev/null || :
  [ "$rc" = 0 ] && exit 0
  say "reason=$WHY step=\"$STEP\" rc=$rc; powering off"
  shutdown -h now || poweroff -f
  exit "$rc"
}
trap off EXIT
# To the node first: it ends its Dask process and sends its last lines.
trap 'WHY=stopped; [ -z "$NODE" ] || kill -TERM "$NODE" 2>/dev/null || :' TERM INT

config() {
  cat <<'PREFECT_COILED_CONFIG'
@CONFIG@
PREFECT_COILED_CONFIG
}

requirements() {
  base64 -d <<'PREFECT_COILED_PACKAGES' | gzip -dc
@PACKAGES@
PREFECT_COILED_PACKAGES
}

run_here() {
  WHY=node-ended
  "$1" --config - < <(config) &
  NODE=$!
  rc=0
  wait "$NODE" || rc=$?
  # A signal ends the first wait, not the node.
  while kill -0 "$NODE" 2>/dev/null; do
    rc=0
    wait "$NODE" || rc=$?
  done
  return "$rc"
}

run_unit() {
  mkdir -p "$ROOT/etc/prefect-coiled" "$ROOT/etc/systemd/system"
  config >"$ROOT/etc/prefect-coiled/node.json"
  cat >"$ROOT/etc/systemd/system/prefect-coiled-node.service" <<UNIT
[Unit]
Description=prefect-coiled node
After=network-online.target
Wants=network-online.target

[Service]
Environment=PATH=$ENV/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
Environment=HOME=/root
ExecStart=$ENV/bin/prefect-coiled-node --config $ROOT/etc/prefect-coiled/node.json
ExecStopPost=/usr/sbin/shutdown -h now
Restart=no
KillMode=mixed
TimeoutStopSec=45
LimitNOFILE=1048576
StandardOutput=journal+console
StandardError=journal+console

[Install]
WantedBy=multi-user.target
UNIT
  systemctl daemon-reload
  systemctl enable prefect-coiled-node.service
  systemctl start --no-block prefect-coiled-node.service
}

make_python() {
  for version in "@PYTHON@" "@PYTHON_MINOR@"; do
    if "$UV" venv --quiet --python "$version" "$ENV"; then return; fi
  done
  say "no downloadable Python; taking @PYTHON_MINOR@ from the distribution"
  dnf install -y -q "python@PYTHON_MINOR@"
  "$UV" venv --quiet --python "@PYTHON_MINOR@" "$ENV"
}

install_all() {
  step "getting uv"
  python3 -m venv "$BASE/boot"
  "$BASE/boot/bin/python" -m pip install --quiet --disable-pip-version-check uv
  UV="$BASE/boot/bin/uv"
  step "making Python @PYTHON@"
  make_python
  LINKS=
  if [ -n "@FIND_LINKS@" ]; then
    step "copying wheels from @FIND_LINKS@"
    mkdir -p "$BASE/wheels"
    aws --region @REGION@ s3 cp --only-show-errors --recursive "@FIND_LINKS@" "$BASE/wheels"
    LINKS="--find-links=$BASE/wheels"
  fi
  requirements >"$BASE/requirements.txt"
  if grep -q 'git+' "$BASE/requirements.txt"; then
    step "getting git"
    dnf install -y -q git-core
  fi
  step "installing $(wc -l <"$BASE/requirements.txt") packages"
  # First with what this platform needs besides; where the client's own set is at odds, exactly as it is.
  "$UV" pip install --quiet --python "$ENV/bin/python" ${LINKS:+"$LINKS"} -r "$BASE/requirements.txt" ||
    "$UV" pip install --quiet --python "$ENV/bin/python" ${LINKS:+"$LINKS"} --no-deps -r "$BASE/requirements.txt"
}

@CONTAINER@
if command -v prefect-coiled-node >/dev/null; then
  step "starting node"
  run_here prefect-coiled-node
  exit
fi
if [ -n "${AWS_EC2_METADATA_SERVICE_ENDPOINT:-}" ]; then
  step "finding prefect-coiled-node on PATH" # never install into a machine that is somebody's own
  exit 127
fi
mkdir -p "$BASE"
(
  trap - EXIT INT
  sleep @BOOT_TIMEOUT@ &
  trap 'kill "$!"; exit 0' TERM
  wait "$!"
  say "reason=boot-timeout after @BOOT_TIMEOUT@ s; powering off"
  shutdown -h now || poweroff -f
) &
GUARD=$!
if [ ! -x "$ENV/bin/prefect-coiled-node" ]; then # a baked image holds it
@INSTALL@
fi
step "starting node"
if command -v systemctl >/dev/null && [ -d "$ROOT/run/systemd/system" ]; then
  run_unit
else
  kill "$GUARD" 2>/dev/null || :
  GUARD=
  export PATH="$ENV/bin:$PATH"
  run_here prefect-coiled-node
fi
