# Installs NVIDIA's GRID driver, without which a fraction of a GPU cannot be used. Ubuntu; about three minutes.
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/nvidia-GRID-driver.html (2026-11)
set -eu
root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU; then exit 0; fi

bucket=https://ec2-linux-nvidia-drivers.s3.amazonaws.com
driver=$(mktemp -d)/driver.run
root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 update -q
root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -qy gcc make curl "linux-headers-$(uname -r)"
key=$(curl -fsS --retry 5 "$bucket/?list-type=2&prefix=latest/" |
    grep -o "latest/NVIDIA-Linux-$(uname -m)-[0-9.]*-grid-aws\.run" | sort -V | tail -n 1)
if [ -z "$key" ]; then
    echo "no GRID driver for $(uname -m) under latest/ in $bucket" >&2
    exit 1
fi
curl -fsS --retry 5 -o "$driver" "$bucket/$key"
root mkdir -p /etc/modprobe.d
printf 'blacklist nouveau\noptions nouveau modeset=0\n' | root tee /etc/modprobe.d/skyward-nouveau.conf >/dev/null
root modprobe -r nouveau 2>/dev/null || true
root sh "$driver" --silent
rm -f "$driver"
nvidia-smi -L | grep GPU
