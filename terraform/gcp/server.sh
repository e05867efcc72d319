#!/bin/sh
# What the server instance runs at each start. Terraform puts in where Coalition is from, and the systemd unit.
set -eu
disk=/dev/disk/by-id/google-coalition
data=/var/lib/coalition

blkid "$disk" >/dev/null || mkfs.ext4 -q -L coalition "$disk"
grep -q ' /var/lib/coalition ' /etc/fstab || echo "LABEL=coalition $data ext4 defaults,nofail 0 2" >>/etc/fstab
mkdir -p "$data"
mountpoint -q "$data" || mount "$data"
[ ! -x /opt/coalition/bin/coalition ] || exit 0 # a server is upgraded by hand, not at each start

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends python3-venv
getent passwd coalition >/dev/null || useradd --system --home-dir "$data" --shell /usr/sbin/nologin coalition
chown coalition: "$data"
install -d -o coalition -g coalition /etc/coalition
source='${source}'
case $source in
    gs://*)
        gcloud storage cp "$source" /root/coalition.whl
        source=/root/coalition.whl
        ;;
    *) source=coalition ;;
esac
python3 -m venv /opt/coalition
/opt/coalition/bin/pip install -q "$${source}[server,gcp]"
echo '${unit}' | base64 -d >/etc/systemd/system/coalition.service
systemctl daemon-reload
