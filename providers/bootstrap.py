"""What a new machine is told when it starts: a shell script, and the same as user data for cloud-init.

Data go in, text comes out: every value is quoted for the shell, and the script stands in cloud-config as base64. The only secret
in it is the enrolment token of its intent. The same request makes the same text, so that it can be sent again.

The script (HEAD, values, BODY) runs at every start of the machine. It sets the machine's own deadline, gets the worker of the
server's version, mounts and unpacks what the pool asks for, runs the startup command, then the worker. When the worker ends, when
something of this fails, or when the paid time is over, the machine switches itself off.
"""

from __future__ import annotations

import base64
import json
import math
import shlex

from coalition.config import PoolSettings, options_of
from coalition.metadata import CLOUDS
from providers.base import LAUNCH_WINDOW_S, Offering, Request

SCRIPT = "/var/lib/cloud/scripts/per-boot/coalition"  # where cloud-init runs it at every start
SAMPLE_S = 900.0

HEAD = """\
#!/bin/sh
# Made by Coalition for one machine. It holds a secret: the right to enrol as a worker, once.
set -eu
umask 077
"""

BODY = r"""
run=$ROOT/run/coalition
state=$ROOT/var/lib/coalition

say() {
    echo "coalition: $*"
    [ ! -w "$ROOT/dev/console" ] || echo "coalition: $*" >"$ROOT/dev/console"
}

end() {
    say "$*; switching off"
    while :; do
        poweroff || :
        sleep 30
        echo o >"$ROOT/proc/sysrq-trigger" || :
    done
}

uptime_s() { # of a clock that goes on in suspend, and that nobody sets
    read -r up rest <"$ROOT/proc/uptime"
    echo "${up%%.*}"
}

# What is paid for at the start ends at UNTIL, and FUNDED seconds after the start whatever the wall clock says.
# The worker moves the deadline when the server has paid on. A deadline that cannot be read is over.
first_deadline() {
    deadline=$(($(uptime_s) + UNTIL - $(date +%s)))
    [ "$deadline" -lt "$FUNDED" ] || deadline=$FUNDED
    echo "$deadline" >"$run/deadline"
}

guard() {
    while :; do
        deadline=$(cat "$run/deadline") || break
        [ "$(uptime_s)" -lt "${deadline%%.*}" ] || break
        sleep "$LOOK_S"
    done
    end "the paid time is over"
}

identity() {
    if [ -n "$IDENTITY" ]; then
        echo "$IDENTITY"
        return
    fi
    case $PROVIDER in
        gce)
            facts=http://metadata.google.internal/computeMetadata/v1/instance
            zone=$(curl -fsS -H 'Metadata-Flavor: Google' "$facts/zone")
            name=$(curl -fsS -H 'Metadata-Flavor: Google' "$facts/name")
            echo "${zone##*/}/$name"
            ;;
        *) cat "$ROOT/var/lib/cloud/data/instance-id" ;;
    esac
}

fetch() { # URL FILE: what is no URL is a package of the server's
    case $1 in
        s3://*) aws s3 cp --only-show-errors "$1" "$2" ;;
        gs://*) gcloud storage cp "$1" "$2" ;;
        *://*) curl -fsSL --retry 5 -o "$2" "$1" ;;
        *) printf 'Authorization: Bearer %s\n' "$TOKEN" | curl -fsS --retry 5 -H @- -o "$2" "$SERVER/api/v1/packages/$1" ;;
    esac
}

get_worker() { # the server's own version: a farm does not mix them
    mkdir -p "$run/wheel"
    cd "$run/wheel"
    curl -fsS --retry 10 --retry-connrefused -OJ "$SERVER/api/v1/worker-package"
    if [ "$PREPARED" = yes ]; then
        "$ROOT/opt/coalition/bin/pip" install -q --no-index --no-deps "$run/wheel/"*.whl
    else
        [ -x "$ROOT/opt/coalition/bin/pip" ] || python3 -m venv "$ROOT/opt/coalition"
        "$ROOT/opt/coalition/bin/pip" install -q "$run/wheel/"*.whl
    fi
    rm -r "$run/wheel"
}

mount_bucket() { # URL FOLDER
    bucket=${1#*://}
    bucket=${bucket%%/*}
    prefix=${1#*://"$bucket"}
    prefix=${prefix#/}
    mkdir -p "$2"
    case $1 in
        s3://*) mount-s3 --allow-other ${prefix:+--prefix "${prefix%/}/"} "$bucket" "$2" ;;
        gs://*) gcsfuse --implicit-dirs -o allow_other ${prefix:+--only-dir "${prefix%/}"} "$bucket" "$2" ;;
    esac
}

unpack() { # URL: its files come below /opt. The server's own once: it gives them for the token of the first start
    mark=$state/unpacked-$1
    case $1 in
        *://*) mark= ;;
        *) [ ! -e "$mark" ] || return 0 ;;
    esac
    mkdir -p "$ROOT/opt" "$state"
    fetch "$1" "$run/package"
    case $1 in
        *.zip) python3 -m zipfile -e "$run/package" "$ROOT/opt" ;;
        *) tar -xf "$run/package" -C "$ROOT/opt" ;;
    esac
    rm "$run/package"
    [ -z "$mark" ] || : >"$mark"
}

prepare() { # each step says what failed
    step "the worker could not be fetched from $SERVER" get_worker
    pool_steps
    [ -z "$STARTUP" ] || step "the startup command failed" sh -c "$STARTUP"
}

step() { # WORDS COMMAND...: in a shell of its own, which ends at the first failure
    words=$1
    shift
    code=0
    sh "$0" "$@" || code=$?
    [ "$code" = 0 ] || end "$words (exit code $code)"
}

work() {
    id=$(identity) || end "the machine's own id is not known"
    printf '%s\n' "$TOKEN" >"$run/token"
    mkdir -p "$state"
    name=$(printf '%s-%s' "$POOL" "$id" | tr -c 'A-Za-z0-9_.-' - | cut -c 1-128)
    set -- worker --server "$SERVER" --token-file "$run/token" --identity "$id" --name "$name"
    set -- "$@" --state-dir "$state" --slots "$SLOTS" --deadline-file "$run/deadline"
    [ -z "$AFFINITY" ] || set -- "$@" --affinity "$AFFINITY"
    [ -z "$SPOT" ] || set -- "$@" --spot "$SPOT"
    if id coalition >/dev/null 2>&1; then
        chown -R coalition "$run" "$state"
        set -- runuser -u coalition -- "$ROOT/opt/coalition/bin/coalition" "$@"
    else
        set -- "$ROOT/opt/coalition/bin/coalition" "$@"
    fi
    code=0
    "$@" || code=$?
    end "the worker ended (exit code $code)"
}

main() {
    mkdir -p "$run"
    first_deadline
    guard &
    prepare
    work
}

if [ $# -gt 0 ]; then
    "$@"
elif command -v systemd-run >/dev/null; then
    systemd-run --quiet --collect --unit=coalition-worker -p KillMode=control-group "$0" main
else
    setsid "$0" main </dev/null >/dev/null 2>&1 &
fi
"""


def script(request: Request, root: str = "", identity: str = "") -> str:
    """The shell script. `root` is put in front of every path, for a rehearsal elsewhere.

    `identity` is the machine's own id, where the script is made for one; else the machine asks its cloud.
    """
    return "".join([HEAD, *_values(request, root, identity), _pool_steps(request), BODY])


def user_data(request: Request, identity: str = "") -> str:
    """The script for cloud-init, which writes it down and runs it at every start."""
    text = base64.b64encode(script(request, identity=identity).encode()).decode()
    file = {"path": SCRIPT, "permissions": "0700", "owner": "root:root", "encoding": "b64", "content": text}
    return "#cloud-config\n" + json.dumps({"write_files": [file]}) + "\n"


def _values(request: Request, root: str, identity: str) -> list[str]:
    values = {
        "ROOT": root,
        "PROVIDER": request.provider,
        "IDENTITY": identity,
        "SERVER": request.server_url,
        "POOL": request.pool,
        "AFFINITY": ",".join(request.affinity),
        "SLOTS": str(request.offering.slots),
        "SPOT": request.provider if request.offering.market == "spot" and request.provider in CLOUDS else "",
        "TOKEN": request.enrol_token,
        "UNTIL": str(math.floor(request.until)),
        "FUNDED": str(math.floor(request.until - request.launch_by + LAUNCH_WINDOW_S)),
        "LOOK_S": "5",
        "PREPARED": "yes" if request.options.get("image_prepared", True) else "no",
        "STARTUP": str(request.options.get("startup", "")),
    }
    return [f"{name}={_quoted(value)}\n" for name, value in values.items()]


def _pool_steps(request: Request) -> str:
    """What this pool asks for, in the order in which it may be needed."""
    lines = ["pool_steps() {", "    :"]
    for mount in request.options.get("mounts", ()):
        url, _, folder = mount.rpartition("=")
        lines.append(f'    step {_quoted(f"{url} could not be mounted")} mount_bucket {_quoted(url)} "$ROOT"{_quoted(folder)}')
    for url in request.options.get("packages", ()):
        lines.append(f"    step {_quoted(f'{url} could not be unpacked')} unpack {_quoted(url)}")
    for pair in request.options.get("environment", ()):
        name, _, value = pair.partition("=")
        lines.append(f"    export {name}={_quoted(value)}")
    return "\n" + "\n".join([*lines, "}"]) + "\n"


def _quoted(value: str) -> str:
    if "\0" in value:
        raise ValueError("a zero byte cannot be given to a shell")
    return shlex.quote(value)


def sample_request(pool: PoolSettings, farm: str, offering: Offering, now: float) -> Request:
    """A request as one of this pool would be, for a provider to look at and never to send."""
    return Request(
        token="0" * 32,
        farm=farm,
        pool=pool.name,
        provider=pool.provider,
        region=pool.region,
        offering=offering,
        count=1,
        affinity=pool.affinity,
        image=pool.image,
        server_url="https://coalition.example.com",
        discovery_port=0,
        launch_by=now,
        until=now + SAMPLE_S,
        options=options_of(pool),
        enrol_token=f"{'0' * 16}.{'0' * 43}",
    )
