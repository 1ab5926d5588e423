ROOT="${PREFECT_COILED_ROOT:-}" # another root directory, for tests
BASE="$ROOT/opt/prefect-coiled"
ENV="$BASE/env"
# uv's cache beside what it installs: it links files from one to the other, and no user's own is touched.
export HOME="${HOME:-/root}" LC_ALL=C.UTF-8 UV_CACHE_DIR="$BASE/cache"
WHY=boot-failed
STEP=start
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

guard() {
  (
    trap - EXIT INT TERM
    # Waits without a child, which a signal in the wrong moment would leave behind.
    exec 3<> <(:)
    read -r -t @BOOT_TIMEOUT@ -u 3 || :
    kill -0 "$$" 2>/dev/null || exit 0 # the script has ended: nothing is to be guarded
    say "reason=boot-timeout after @BOOT_TIMEOUT@ s; powering off"
    shutdown -h now || poweroff -f
  ) &
  GUARD=$!
}

# From the account's bucket, with the machine's role, through the S3 gateway endpoint. S3 may ask hundreds of
# machines to slow down.
export AWS_RETRY_MODE=standard AWS_MAX_ATTEMPTS=10
fetch() { aws --region @REGION@ s3 cp --only-show-errors "$@"; }

make_python() {
  [ ! -x "$ENV/bin/python" ] || return 0 # the image has it
  step "making Python @PYTHON@"
  # The distribution's packages are in S3 too, so that this needs no way out.
  if command -v "python@PYTHON_MINOR@" >/dev/null || dnf install -y -q "python@PYTHON_MINOR@"; then
    "$UV" venv --quiet --relocatable --python "$(command -v "python@PYTHON_MINOR@")" "$ENV"
    DISTRIBUTED=yes
  else
    say "the distribution has no Python @PYTHON_MINOR@; downloading one"
    download_python
  fi
}

download_python() { "$UV" venv --quiet --relocatable --managed-python --python "@PYTHON@" "$ENV"; }

install_new() {
  "$UV" pip install --quiet --python "$ENV/bin/python" --no-config --no-index --no-deps --reinstall -r new
}

# The client knows a wheel of an index by its RECORD; here it is seen that it is that one, and true.
check_records() {
  sed -n 's/^output="\(.*\)"$/\1/p' urls | python3 -c '
import base64, csv, hashlib, io, re, sys, zipfile
sha = hashlib.sha256
seen = dict(re.findall(r"(wheels/[^\"]+).*\n.*\nrecord = .(\w+)", open("pylock.toml").read()))
for path in sys.stdin.read().split():
    wheel = zipfile.ZipFile(path)
    names = wheel.namelist()
    def see(true, why): assert true, f"{path}: {why}"
    see(len(set(names)) == len(names), "a file is twice in it")
    for record in (n for n in names if n.endswith(".dist-info/RECORD")):
        text, rest = wheel.read(record), set(names) - {record + end for end in ("", ".jws", ".p7s")}
        for row in csv.reader(io.StringIO(text.decode(errors="replace"))):
            if len(row) > 1 and row[1].startswith("sha256="):
                rest.discard(row[0])
                if row[0] in names:
                    found = base64.urlsafe_b64encode(sha(wheel.read(row[0])).digest()).decode()
                    see(found.rstrip("=") == row[1][7:].rstrip("="), row[0] + " is not what its RECORD says")
        if path in seen and record.count("/") == 1:
            see(sha(text).hexdigest() == seen.pop(path), "RECORD is another one than was looked into")
            for name in rest: see(name[-1] == "/", name + " is not in its RECORD")
    see(path not in seen, "it has no RECORD")
'
}

# What the lock wants and the machine has not yet: all of it on a bare machine, the difference on an image.
install_all() {
  step "fetching the list of packages"
  mkdir -p "$BASE/wheels"
  cd "$BASE"
  fetch "s3://@BUCKET@/@LOCK@" pylock.toml
  # Its path is its hash, and this script says the path: nobody can have put another list there.
  LOCK="@LOCK@" LOCK="${LOCK%/*}"
  echo "${LOCK##*/}  pylock.toml" | sha256sum --check --quiet --strict -
  grep -o 'wheels/[0-9a-f]\{64\}/[^"]*' pylock.toml | sort >wanted
  touch installed
  comm -23 wanted installed >new
  comm -13 wanted installed >old
  step "fetching $(wc -l <new) wheels"
  if [ -s new ]; then
    mapfile -t include < <(sed 's,^wheels/,--include\n,' new)
    fetch --recursive "s3://@BUCKET@/wheels" wheels --exclude '*' "${include[@]}"
    # What the bucket lacks and the list has an address of comes from its index; its hash is checked as well.
    while read -r wheel; do
      [ -f "$wheel" ] || sed -n "s|.*path = \"\($wheel\)\", url = \"\([^\"]*\)\".*|url=\"\2\"\noutput=\"\1\"|p" pylock.toml
    done <new >urls
    if [ -s urls ]; then
      step "fetching $(grep -c ^url urls) wheels from their index"
      curl --config urls --parallel --create-dirs --proto =https --proto-redir =https --location --fail --silent --show-error --retry 5
    fi
    while read -r wheel; do
      [ -f "$wheel" ] || { say "error: $wheel is not in the bucket @BUCKET@"; exit 3; }
    done <new
    sed 's,^wheels/\([0-9a-f]*\)/,\1  &,' new | sha256sum --check --quiet --strict -
    [ ! -s urls ] || check_records
  fi
  UV=$(grep -o 'wheels/[0-9a-f]*/uv-[^/]*$' wanted) || {
    say "error: no uv in the list of packages, $(wc -c <pylock.toml) bytes of s3://@BUCKET@/@LOCK@"
    exit 3
  }
  if [ -f "$UV" ]; then # else the image has this very one
    mkdir -p bin
    python3 -m zipfile -e "$UV" uv
    mv uv/uv-*.data/scripts/uv bin/uv
    chmod +x bin/uv
  fi
  UV="$BASE/bin/uv"
  make_python
  step "installing $(wc -l <new) packages"
  # Packages that the lock has in no version; a new version replaces the old one by itself.
  sed 's,.*/\([^-]*\)-.*,\1,' wanted | sort -u >names
  sed 's,.*/\([^-]*\)-.*,\1,' old | sort -u | comm -23 - names >gone
  [ ! -s gone ] || "$UV" pip uninstall --quiet --python "$ENV/bin/python" -r gone
  if [ -s new ] && ! install_new 2>refusal; then
    cat refusal >&2
    # A package may ask for a later patch of Python than the distribution has. An image's environment stays.
    [ -n "${DISTRIBUTED:-}" ] && grep -q 'does not satisfy Python' refusal || exit 1
    step "trying with Python @PYTHON@ itself, which is downloaded"
    rm -rf "$ENV"
    download_python
    install_new
  fi
  mv wanted installed
  rm -rf wheels uv new old names gone urls refusal
  cd - >/dev/null
}
