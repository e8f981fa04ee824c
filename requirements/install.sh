#!/bin/sh
# Install namm, its tests and the exact versions of ci-constraints.txt: install.sh PYTHON
#
# On Linux the default build of torch brings gigabytes of CUDA. Where there is no GPU, the CPU build
# is taken instead: from the sources pip is configured with, else from PyTorch's own index.
set -eu

cd "$(dirname "$0")/.."
constraints=requirements/ci-constraints.txt
install="$1 -m pip install -c $constraints"
torch="$(grep '^torch==' $constraints)+cpu"

if [ "$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null; then
    echo "No GPU found: looking for $torch, first among pip's own sources."
    $install "$torch" ||
        $install --extra-index-url https://download.pytorch.org/whl/cpu "$torch" ||
        echo "No CPU build of torch found: its default build is installed."
fi

$install -e '.[test]'
