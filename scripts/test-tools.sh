#!/usr/bin/env bash
# Installs what some tests look through: a browser and a terminal (Debian's packages, as root) and TensorBoard (in a virtual
# environment under target/). Nothing else needs them; without them those tests say that they did not look.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
for package in chromium:chromium chromedriver:chromium-driver tmux:tmux; do
    command -v "${package%%:*}" > /dev/null || missing+=("${package##*:}")
done
if ((${#missing[@]})); then
    apt-get update --quiet --quiet
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes --no-install-recommends "${missing[@]}" > /dev/null
fi
scripts/oracle/setup.sh tensorboard
