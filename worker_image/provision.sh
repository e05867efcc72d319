#!/bin/sh
# Makes a Debian system a worker's: run as root on the machine, or in the chroot, that becomes the image. It may be run again.
#
#   WHEEL=coalition.whl ./provision.sh         all steps; each can also be named: ./provision.sh user worker
#
# WHEEL        the worker's wheel, a file; pip gets what it needs (PIP_NO_INDEX=1 PIP_FIND_LINKS=DIR: from a folder)
# PYTHON       the Python of the worker's environment (python3)
# DATASOURCES  where cloud-init looks for user data (Ec2, GCE, OpenStack, ConfigDrive, NoCloud, None)
# MOUNT_S3, MOUNT_S3_SHA256, GCSFUSE, GCSFUSE_SHA256   .deb files of the mount helpers: address and checksum; empty: none
set -eu
cd "$(dirname "$0")"

WHEEL=${WHEEL:-}
PYTHON=${PYTHON:-python3}
DATASOURCES=${DATASOURCES:-Ec2, GCE, OpenStack, ConfigDrive, NoCloud, None}
HOME_DIR=/opt/coalition
PACKAGES="ca-certificates chrony cloud-init curl nfs-common python3 python3-venv"
STEPS="packages user worker units logs cloud_init mount_helpers hooks self_test clean"

say() { echo "provision: $*"; }

fail() {
    echo "provision: $*" >&2
    exit 1
}

put() { # MODE FILE TARGET: written only when it differs, so that a second run changes nothing
    cmp -s "files/$2" "$3" || install -D -m "$1" "files/$2" "$3"
}

packages() {
    if ! command -v apt-get >/dev/null; then
        say "no apt-get here: the base must have $PACKAGES"
        return
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    apt-get install -y -qq --no-install-recommends $PACKAGES
}

user() { # jobs run as this user; a login it has none
    getent group coalition >/dev/null || groupadd --system coalition
    getent passwd coalition >/dev/null ||
        useradd --system --gid coalition --home-dir /var/lib/coalition --shell /usr/sbin/nologin coalition
    install -d -o coalition -g coalition -m 0750 /var/lib/coalition
    install -d -m 0755 /etc/coalition
}

worker() { # an environment of its own: the system's Python packages and the worker's do not meet
    [ -f "$WHEEL" ] || fail "WHEEL must name the worker's wheel"
    [ -x "$HOME_DIR/bin/pip" ] || "$PYTHON" -m venv "$HOME_DIR"
    sum=$(sha256sum "$WHEEL")
    sum=${sum%% *}
    [ "$(cat "$HOME_DIR/wheel.sha256" 2>/dev/null)" != "$sum" ] || return 0
    [ ! -x "$HOME_DIR/bin/coalition" ] || install_wheel --no-deps --force-reinstall # another wheel of the same version
    install_wheel
    echo "$sum" >"$HOME_DIR/wheel.sha256"
}

install_wheel() { "$HOME_DIR/bin/pip" install -q --disable-pip-version-check "$@" "$WHEEL"; }

units() {
    put 0755 dead-man "$HOME_DIR/libexec/dead-man"
    for unit in coalition-site-worker.service coalition-dead-man.service coalition-dead-man.timer; do
        put 0644 "$unit" "/etc/systemd/system/$unit"
    done
    put 0644 worker.env.example /etc/coalition/worker.env.example
    systemctl enable coalition-site-worker.service coalition-dead-man.timer chrony.service
}

logs() { # a job's own log goes to the server: the system's needs little room
    put 0644 journald.conf /etc/systemd/journald.conf.d/coalition.conf
}

cloud_init() {
    install -d -m 0755 /etc/cloud/cloud.cfg.d
    printf 'datasource_list: [%s]\n' "$DATASOURCES" >/etc/cloud/cloud.cfg.d/90-coalition.cfg
}

mount_helpers() { # as asked for: each from its maker, by checksum
    helper mount-s3 "${MOUNT_S3:-}" "${MOUNT_S3_SHA256:-}"
    helper gcsfuse "${GCSFUSE:-}" "${GCSFUSE_SHA256:-}"
}

helper() { # COMMAND ADDRESS SHA256
    if [ -z "$2" ] || command -v "$1" >/dev/null; then
        return 0
    fi
    [ -n "$3" ] || fail "$1: no checksum is given for $2"
    file=$(mktemp -d)/$1.deb
    curl -fsSL --retry 5 -o "$file" "$2"
    echo "$3  $file" | sha256sum -c --quiet - || fail "$1: $2 is not what was expected"
    apt-get install -y -qq --no-install-recommends "$file"
    rm -r "${file%/*}"
}

hooks() { # the studio's own: its renderer, its licences' addresses; in the order of their names
    install -d -m 0755 /etc/coalition/image.d
    for hook in /etc/coalition/image.d/*; do
        [ -x "$hook" ] || continue
        say "hook $hook"
        "$hook" || fail "$hook failed"
    done
}

self_test() { # an image that cannot work is not made
    setpriv --reuid coalition --regid coalition --clear-groups \
        "$HOME_DIR/bin/coalition" worker --self-test --state-dir /var/lib/coalition/self-test
    rm -rf /var/lib/coalition/self-test
}

clean() { # what must differ between two machines made of one image, and what need not be in it
    ! command -v apt-get >/dev/null || apt-get clean
    ! command -v cloud-init >/dev/null || cloud-init clean --logs
    rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub /var/lib/systemd/random-seed
    rm -f /var/lib/coalition/credential /etc/coalition/worker.env
    [ ! -e /etc/machine-id ] || : >/etc/machine-id
}

[ "$(id -u)" = 0 ] || fail "run it as root, on the machine that becomes the image"
# shellcheck disable=SC2086 # a list of words
[ $# -gt 0 ] || set -- $STEPS
for step in "$@"; do
    case " $STEPS " in
        *" $step "*) ;;
        *) fail "there is no step $step; the steps are: $STEPS" ;;
    esac
    say "$step"
    "$step"
done
say "done"
