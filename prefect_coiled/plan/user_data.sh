#!/bin/bash
# Starts the node of a prefect-coiled cluster. Holds no secret: keys are fetched with the instance's role.
# Whatever fails, the machine says why on its console and powers off; power-off terminates it.
set -eu
@INSTALLER@
NODE=
STOPPED=
# To the node first: it ends its Dask process and sends its last lines.
trap 'WHY=stopped STOPPED=1; [ -z "$NODE" ] || kill -TERM "$NODE" 2>/dev/null || :' TERM INT

config() {
  cat <<'PREFECT_COILED_CONFIG'
@CONFIG@
PREFECT_COILED_CONFIG
}

run_here() {
  WHY=node-ended
  "$1" --config - < <(config) &
  NODE=$!
  [ -z "$STOPPED" ] || kill -TERM "$NODE" 2>/dev/null || : # asked for as it was started
  rc=0
  wait "$NODE" || rc=$?
  # A signal ends the first wait, not the node.
  while kill -0 "$NODE" 2>/dev/null; do
    rc=0
    wait "$NODE" || rc=$?
  done
  return "$rc"
}

run_unit() { # what the node is, and what else it comes after
  mkdir -p "$ROOT/etc/prefect-coiled" "$ROOT/etc/systemd/system"
  config >"$ROOT/etc/prefect-coiled/node.json"
  cat >"$ROOT/etc/systemd/system/prefect-coiled-node.service" <<UNIT
[Unit]
Description=prefect-coiled node
After=network-online.target${2:+ $2}
Wants=network-online.target${2:+ $2}

[Service]
Environment=PATH=$ENV/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
Environment=HOME=/root
ExecStart=$1
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

@CONTAINER@
if command -v prefect-coiled-node >/dev/null; then
  step "starting node"
  run_here prefect-coiled-node
  exit
fi
if [ -n "${AWS_EC2_METADATA_SERVICE_ENDPOINT:-}" ] && [ -z "$ROOT" ]; then
  step "finding prefect-coiled-node on PATH" # never install into a machine that is somebody's own
  exit 127
fi
guard
@INSTALL@
step "starting node"
if command -v systemctl >/dev/null && [ -d "$ROOT/run/systemd/system" ]; then
  run_unit "$ENV/bin/prefect-coiled-node --config $ROOT/etc/prefect-coiled/node.json"
else
  kill "$GUARD" 2>/dev/null || :
  GUARD=
  export PATH="$ENV/bin:$PATH"
  run_here prefect-coiled-node
fi
