# Sees to it that Neuron devices can be used: the images of AWS bring driver and tools, others get them here. Ubuntu.
# https://awsdocs-neuron.readthedocs-hosted.com/en/latest/setup/index.html (2026-11)
set -eu
root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
PATH=$PATH:/opt/aws/neuron/bin
if ! command -v neuron-ls >/dev/null 2>&1; then
    . /etc/os-release
    source=https://apt.repos.neuron.amazonaws.com
    curl -fsS --retry 5 "$source/GPG-PUB-KEY-AMAZON-AWS-NEURON.PUB" | root tee /etc/apt/trusted.gpg.d/neuron.asc >/dev/null
    echo "deb $source $VERSION_CODENAME main" | root tee /etc/apt/sources.list.d/neuron.list >/dev/null
    root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 update -q
    root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -qy \
        "linux-headers-$(uname -r)" aws-neuronx-dkms aws-neuronx-tools
fi
neuron-ls
